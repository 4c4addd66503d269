"""Streamed text is what decoding all bytes at once gives, however the bytes are cut."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from narrows.engine.detokenize import Detokenizer

# Parts of characters of every length, right and wrong: incomplete, overlong, surrogate, beyond the last.
PARTS = b"a/ /\xc3/\xa9/\xe2\x82/\xac/\xf0\x9f/\x98/\x80/\xed\xa0/\xff/\xf4\x90".split(b"/")
pieces = st.lists(st.sampled_from(PARTS) | st.binary(max_size=6), max_size=30)


def stream(parts: list[bytes], *, strip: bool = False) -> list[str]:
    detokenizer = Detokenizer(strip_leading_space=strip)
    return [*(detokenizer.feed(part) for part in parts), detokenizer.finish()]


@given(pieces)
@settings(max_examples=500, derandomize=True)
@example([b"\xf0\x9f\x98"])
@example([b"\xe2", b"\x82", b"A"])
@example([b"\xed", b"\xa0", b"\x80"])
def test_pieces_join_to_the_text_decoded_at_once(parts: list[bytes]) -> None:
    assert "".join(stream(parts)) == b"".join(parts).decode("utf-8", "replace")


@given(pieces)
@settings(max_examples=200, derandomize=True)
def test_only_the_first_space_of_a_text_is_stripped(parts: list[bytes]) -> None:
    assert "".join(stream(parts, strip=True)) == b"".join(parts).decode("utf-8", "replace").removeprefix(" ")


@given(st.text(max_size=20), st.data())
@settings(max_examples=200, derandomize=True)
def test_a_sound_text_never_shows_a_replacement_character_on_its_way(text: str, data: st.DataObject) -> None:
    raw = text.encode("utf-8", "ignore")
    whole = raw.decode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    parts = [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    released = ""
    for piece in stream(parts):
        released += piece
        assert whole.startswith(released)
    assert released == whole


def test_the_incomplete_end_becomes_one_replacement_character() -> None:
    assert stream([b"a\xf0", b"\x9f", b"\x98"]) == ["a", "", "", "\ufffd"]
