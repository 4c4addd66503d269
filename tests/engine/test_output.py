"""Stop strings at every split: nothing leaks, nothing is held too long, text and tokens are cut together."""

from __future__ import annotations

import itertools
from codecs import utf_8_decode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.engine.client import TokenRecord
from narrows.engine.output import OutputRules, OutputText
from narrows.engine.step import Sampled, TokenLogprob
from narrows.engine.stopper import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS, StopAutomaton, make_automaton
from narrows.errors import InvalidRequest


class PieceVocabulary:
    """Token i is the i-th of some pieces."""

    strips_leading_space = False

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def token_bytes(self, token_id: int) -> bytes:
        return self._pieces[token_id]


Released = list[tuple[str, tuple[TokenRecord, ...]]]


def run(pieces: list[bytes], rules: OutputRules) -> tuple[Released, str | None]:
    """What was released after each token (and at the end), and the stop string."""
    output = OutputText(PieceVocabulary(pieces), rules)
    released = []
    for token_id in range(len(pieces)):
        released.append(output.feed(Sampled(token_id, -0.5, (TokenLogprob(token_id, -0.5),))))
        if output.stopped_by is not None:
            return released, output.stopped_by
    released.append(output.finish())
    return released, output.stopped_by


def cut_by_definition(text: str, stops: tuple[str, ...]) -> tuple[int, int, str] | None:
    """(begin, end, stop) of the match that ends first, the longest of those; found by trying every end."""
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            longest = max(matches, key=len)
            return end - len(longest), end, longest
    return None


def token_begins(pieces: list[bytes]) -> list[int]:
    """The number of whole characters before each token, by decoding everything before it."""
    return [len(utf_8_decode(b"".join(pieces[:index]), "replace", False)[0]) for index in range(len(pieces))]


small_texts = st.text(alphabet="ab\u20ac ", max_size=14)
small_stops = st.lists(st.text(alphabet="ab\u20ac \ufffd", min_size=1, max_size=4), max_size=4).map(tuple)


# Parts of characters, so that random tokens are whole, incomplete and wrong ones.
token_pieces = st.lists(
    st.sampled_from([b"a", b"b", b"ab", b" ", b"\xe2", b"\x82", b"\xac", b"\x82\xaca", b"\xff", b""])
)


@given(token_pieces, small_stops, st.booleans())
@settings(max_examples=1000, derandomize=True)
def test_the_cut_is_that_of_the_whole_text(pieces, stops, include) -> None:
    text = b"".join(pieces).decode("utf-8", "replace")
    released, stopped_by = run(pieces, OutputRules(make_automaton(stops), include))
    match = cut_by_definition(text, stops)
    end = len(text) if match is None else (match[1] if include else match[0])
    assert stopped_by == (None if match is None else match[2])
    assert "".join(part for part, _ in released) == text[:end]
    tokens = [token for _, group in released for token in group]
    begins = token_begins(pieces)
    kept = [index for index, begin in enumerate(begins) if match is None or begin < end]
    assert [token.token_id for token in tokens] == kept
    assert [token.offset for token in tokens] == [begins[index] for index in kept]


@given(small_texts, small_stops)
@settings(max_examples=300, derandomize=True)
def test_exactly_the_longest_possible_beginning_of_a_stop_string_is_held_back(text, stops) -> None:
    match = cut_by_definition(text, stops)
    shown = text if match is None else text[: match[1] - 1]
    output = OutputText(
        PieceVocabulary([char.encode() for char in shown]), OutputRules(make_automaton(stops))
    )
    released = ""
    for index in range(len(shown)):
        released += output.feed(Sampled(index))[0]
        seen = shown[: index + 1]
        held = max((n for stop in stops for n in range(1, len(stop)) if seen.endswith(stop[:n])), default=0)
        assert released == seen[: len(seen) - held]


@pytest.mark.parametrize("cuts", [c for n in range(8) for c in itertools.combinations(range(1, 8), n)])
def test_a_stop_string_split_anywhere_never_leaks(cuts: tuple[int, ...]) -> None:
    raw = "a€STOP".encode()
    pieces = [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    released, stopped_by = run([*pieces, b"never"], OutputRules(StopAutomaton(("STOP",))))
    assert stopped_by == "STOP"
    assert "".join(part for part, _ in released) == "a€"
    for part, tokens in released:
        assert part or not tokens, "tokens come with text"


def test_every_token_comes_with_the_text_in_which_it_begins() -> None:
    released, _ = run([b"x", b"\xe2", b"\x82", b"\xac", b"y"], OutputRules())
    assert [(part, [token.token_id for token in tokens]) for part, tokens in released] == [
        ("x", [0]),
        ("", []),
        ("", []),
        ("€", [1, 2, 3]),
        ("y", [4]),
        ("", []),
    ]


def test_the_tail_of_a_token_that_begins_before_the_cut_is_cut_but_the_token_stays() -> None:
    released, stopped_by = run([b"abEN", b"D!"], OutputRules(StopAutomaton(("END",))))
    assert stopped_by == "END"
    assert [(part, [t.token_id for t in tokens]) for part, tokens in released] == [("ab", [0]), ("", [])]


def test_logprobs_stay_with_their_tokens() -> None:
    released, _ = run([b"a", b"b", b"END"], OutputRules(StopAutomaton(("END", "bE"))))
    tokens = [token for _, group in released for token in group]
    assert [(t.token_id, t.text, t.logprob, t.top[0].data) for t in tokens] == [(0, "a", -0.5, b"a")]


def test_stop_strings_are_not_looked_for_before_min_tokens() -> None:
    rules = OutputRules(StopAutomaton(("ab",)), min_tokens=3)
    released, stopped_by = run([b"ab", b"a", b"b", b"a", b"b", b"c"], rules)
    assert stopped_by == "ab"
    assert "".join(part for part, _ in released) == "abab"


def test_a_replacement_character_at_the_end_can_complete_a_stop_string() -> None:
    released, stopped_by = run([b"a", b"\xe2"], OutputRules(StopAutomaton(("\ufffd",))))
    assert stopped_by == "\ufffd"
    assert "".join(part for part, _ in released) == "a"
    assert [t.token_id for _, group in released for t in group] == [0]


def test_special_tokens_without_text_come_at_the_latest_at_the_end() -> None:
    released, _ = run([b"a", b"", b""], OutputRules())
    assert [[t.token_id for t in tokens] for _, tokens in released] == [[0], [], [], [1, 2]]


@pytest.mark.parametrize(
    "stops",
    ["a text", ("",), ("a", ""), (7,), ("x",) * (MAX_STOP_STRINGS + 1), ("y" * (MAX_STOP_CHARACTERS + 1),)],
    ids=["one text", "empty", "one empty", "no text", "too many", "too long"],
)
def test_stop_strings_that_cannot_be_taken_are_refused_by_name(stops: tuple) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_automaton(stops)
    assert caught.value.param == "stop"


def test_a_text_of_near_matches_costs_time_in_proportion_to_its_length() -> None:
    automaton = StopAutomaton(("a" * 2000 + "b",))
    state, match = automaton.feed(0, "a" * 50_000)
    assert (match, automaton.num_held(state)) == (None, 2000)
