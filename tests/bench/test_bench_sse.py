"""Events out of bytes, cut anywhere, against the standard's own rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.bench.sse import MAX_EVENT_BYTES, EventParser

STREAM = (
    b"\xef\xbb\xbfdata: one\n\n: ping\n\ndata: a\r\ndata:b\r\n\r\n"
    b"event: x\rdata: last \xc3\xa9\rid: 4\r\rretry: 5\n\n"
)
EVENTS = [b"one", b"a\nb", b"last \xc3\xa9"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts) -> None:
    parser, found, edges = EventParser(), [], sorted({0, *cuts, len(STREAM)})
    for begin, end in pairwise(edges):
        found += parser.feed(STREAM[begin:end])
    assert found == EVENTS
    assert parser.num_odd_lines == 0
    assert not parser.is_cut


def test_an_event_without_end_is_given_up() -> None:
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // 100_000 + 1):
        assert parser.feed(b"data: " + b"x" * 100_000) == []
    assert parser.is_overlong
    assert parser.feed(b"\n\ndata: y\n\n") == []


def test_one_byte_at_a_time() -> None:
    parser = EventParser()
    assert [one for byte in STREAM for one in parser.feed(bytes([byte]))] == EVENTS


@pytest.mark.parametrize(
    ("data", "events", "odd", "cut"),
    [
        (b"data: x\n", [], 0, True),
        (b"data: x", [], 0, True),
        (b"data\n\n", [b""], 0, False),
        (b"<html>\n</html>\n\ndata: x\n\n", [b"x"], 2, False),
        (b"\n\n\n", [], 0, False),
        (b": only a comment\n\n", [], 0, False),
    ],
)
def test_odd_lines_are_counted_and_unfinished_events_noticed(data, events, odd, cut) -> None:
    parser = EventParser()
    assert parser.feed(data) == events
    assert (parser.num_odd_lines, parser.is_cut) == (odd, cut)
