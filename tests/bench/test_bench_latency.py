"""The definitions of docs/metrics.md, exactly: on records, and through client and load on a virtual clock."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from bench_fakes import (
    record,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.bench.latency import latency_of
from narrows.bench.record import Piece, from_json, to_json


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-9)


def test_ttft_tpot_e2e_and_itl_follow_their_definitions() -> None:
    found = latency_of(record(intended_s=0.5, at_s=(1.0, 1.25, 1.5, 2.5)))
    assert found is not None
    assert (found.ttft_s, found.e2e_s, found.tpot_s) == (0.5, 2.0, 0.5)
    assert found.itl_s == (0.25, 0.25, 1.0)
    assert found.num_unknown_itl == 0
    assert not found.is_counted_by_chunks


def test_a_chunk_of_several_tokens_is_never_divided() -> None:
    """Six tokens in three chunks without a count for each: no ITL at all, five gaps unknown, TPOT still
    exact.
    """
    found = latency_of(record(at_s=(1.0, 1.2, 2.0), num_output=6))
    assert found is not None
    assert found.itl_s == ()
    assert found.num_unknown_itl == 5
    assert found.gap_s == (close(0.2), close(0.8))
    assert found.tpot_s == close(0.2)


def test_counts_of_each_chunk_make_the_other_gaps_known() -> None:
    pieces = (Piece(1.0, 1), Piece(1.1, 3), Piece(1.3, 1), Piece(1.6, 1))
    found = latency_of(record_with(pieces, num_output=6))
    assert found is not None
    assert found.itl_s == (close(0.2), close(0.3))
    assert found.num_unknown_itl == 3
    assert len(found.itl_s) + found.num_unknown_itl == found.num_tokens - 1


def test_the_servers_stamps_tell_the_tokens_of_a_chunk_apart() -> None:
    pieces = (Piece(1.0, 1, (0.1,)), Piece(1.5, 3, (0.2, 0.3, 0.5)))
    found = latency_of(record_with(pieces, num_output=4))
    assert found is not None
    assert found.itl_s == (close(0.1), close(0.1), close(0.2))
    assert found.num_unknown_itl == 0


def test_without_usage_tokens_are_counted_by_chunks_and_itl_is_unknown() -> None:
    found = latency_of(record(at_s=(1.0, 1.1, 1.2), num_output=None))
    assert found is not None
    assert found.is_counted_by_chunks
    assert (found.num_tokens, found.itl_s, found.num_unknown_itl) == (3, (), 2)


def test_the_end_token_has_no_text_but_its_time_is_the_finish_reasons() -> None:
    found = latency_of(record(at_s=(1.0, 1.1), num_output=3, finish_reason="stop", finish_s=1.25, end_s=1.3))
    assert found is not None
    assert found.e2e_s == 1.25
    assert found.tpot_s == close(0.125)
    assert found.itl_s == (close(0.1),)
    assert found.num_unknown_itl == 1


def test_counts_that_contradict_the_usage_are_not_believed() -> None:
    pieces = tuple(Piece(1.0 + i, 1) for i in range(5))
    found = latency_of(record_with(pieces, num_output=3))
    assert found is not None
    assert (found.itl_s, found.num_unknown_itl) == ((), 2)


def test_one_token_has_no_tpot_and_no_token_no_latency() -> None:
    found = latency_of(record(at_s=(1.0,)))
    assert found is not None
    assert found.tpot_s is None
    assert found.itl_s == ()
    assert latency_of(record(at_s=())) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.floats(0.001, 2.0), st.one_of(st.none(), st.integers(0, 5))), min_size=1, max_size=12
    ),
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_known_and_unknown_gaps_never_exceed_the_tokens(chunks, num_output) -> None:
    at_s, pieces = 0.0, []
    for gap_s, tokens in chunks:
        at_s += gap_s
        pieces.append(Piece(at_s, tokens))
    found = latency_of(record_with(tuple(pieces), num_output=num_output))
    assert found is not None
    assert found.num_unknown_itl >= 0
    assert len(found.itl_s) + found.num_unknown_itl == found.num_tokens - 1
    assert found.ttft_s <= found.e2e_s
    assert set(found.itl_s) <= {later.at_s - earlier.at_s for earlier, later in pairwise(pieces)}


def test_a_record_survives_json() -> None:
    one = record(3, intended_s=0.25, at_s=(0.5, 0.75), error=None, server_ms={"ttft": 3.5}, detail="é")
    assert from_json(to_json(one)) == one
    stamped = record_with((Piece(1.0, 1, (0.125,)), Piece(1.5, 2, None)), num_output=3)
    assert from_json(to_json(stamped)) == stamped


def record_with(pieces: tuple[Piece, ...], num_output: int | None):
    last_s = pieces[-1].at_s
    return replace(record(at_s=(1.0,)), pieces=pieces, num_output=num_output, finish_s=last_s, end_s=last_s)
