"""Finds stop strings in a text that comes in pieces, wherever the pieces are cut.

An Aho-Corasick automaton over characters: the match that ends first wins, of those that end together the
longest, so the result does not depend on tokens. Knows nothing of tokens; output.py cuts text and tokens by
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from narrows.errors import InvalidRequest

# Building the automaton takes about 1 us a character on the caller's thread, which may be an event loop's.
MAX_STOP_STRINGS = 64
MAX_STOP_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Match:
    """A stop string, ending `end` characters into the piece of text that completed it."""

    stop: str
    end: int


class StopAutomaton:
    """The strings of one request; immutable. States are node numbers, 0 is "nothing begun"."""

    __slots__ = ("_depth", "_edges", "_failure", "_first", "_found")

    def __init__(self, stops: Sequence[str]) -> None:
        self._edges: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._found: list[str | None] = [None]  # the longest stop string that ends in this state
        self._failure = [0]
        for stop in stops:
            self._insert(stop)
        self._first = frozenset(self._edges[0])
        self._link()

    def feed(self, state: int, text: str) -> tuple[int, Match | None]:
        """The state after `text`, or the first match in it."""
        if state == 0 and self._first.isdisjoint(text):
            return 0, None
        edges, failure = self._edges, self._failure
        for index, character in enumerate(text):
            while state and character not in edges[state]:
                state = failure[state]
            state = edges[state].get(character, 0)
            stop = self._found[state]
            if stop is not None:
                return state, Match(stop, index + 1)
        return state, None

    def num_held(self, state: int) -> int:
        """Characters at the end of the text that may be the beginning of a stop string."""
        return self._depth[state]

    def _insert(self, stop: str) -> None:
        node = 0
        for character in stop:
            following = self._edges[node].get(character)
            if following is None:
                following = len(self._edges)
                self._edges[node][character] = following
                self._edges.append({})
                self._depth.append(self._depth[node] + 1)
                self._found.append(None)
                self._failure.append(0)
            node = following
        self._found[node] = stop

    def _link(self) -> None:
        """Breadth first: the longest proper suffix of a state that is a state too."""
        queue = deque(self._edges[0].values())
        while queue:
            node = queue.popleft()
            for character, child in self._edges[node].items():
                state = self._failure[node]
                while state and character not in self._edges[state]:
                    state = self._failure[state]
                self._failure[child] = self._edges[state].get(character, 0)
                if self._found[child] is None:
                    self._found[child] = self._found[self._failure[child]]
                queue.append(child)


def make_automaton(stops: Sequence[str]) -> StopAutomaton | None:
    """Checks the strings; None where there are none."""
    if not stops:
        return None
    if isinstance(stops, str) or any(not isinstance(stop, str) or not stop for stop in stops):
        raise InvalidRequest("stop must be a list of texts of at least one character each", param="stop")
    num_characters = sum(map(len, stops))
    if len(stops) > MAX_STOP_STRINGS or num_characters > MAX_STOP_CHARACTERS:
        raise InvalidRequest(
            f"stop has {len(stops)} strings of {num_characters} characters in all; "
            f"at most {MAX_STOP_STRINGS} strings of {MAX_STOP_CHARACTERS} characters in all are allowed",
            param="stop",
        )
    return StopAutomaton(stops)
