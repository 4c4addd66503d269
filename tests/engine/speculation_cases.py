"""Guessers that take the place of the policy, shared by the tests of speculation."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from engine_cases import Driver, make_engine

from narrows.engine.client import GenerationRequest
from narrows.engine.fake import FakeRunner
from narrows.engine.request import Request
from narrows.engine.speculation import Rooms, Speculator
from narrows.engine.step import Step, StepResult

# (request, most) -> guesses
Guesser = Callable[[Request, int], list[int]]


@contextmanager
def guessing(guesser: Guesser) -> Iterator[None]:
    """Every step of every engine verifies what `guesser` says, whether it pays or not."""

    def choose(
        speculator: Speculator, requests: Sequence[Request], rooms: Rooms, *, max_rows: int
    ) -> list[list[int]]:
        left = max_rows - len(requests)
        guesses = []
        for request in requests:
            room = rooms(request, speculator.max_draft)
            guess = guesser(request, room)[: min(room, left)]
            left -= len(guess)
            guesses.append(guess)
        return guesses

    with mock.patch.object(Speculator, "choose", choose):
        yield


@contextmanager
def verifying_all() -> Iterator[None]:
    """Every guess of the drafter is verified, whether it pays or not."""

    def best_counts(_: Speculator, chances: list[list[float]], plan: object, max_rows: int) -> list[int]:
        left = max_rows - len(chances)
        counts = []
        for of_one in chances:
            counts.append(min(len(of_one), left))
            left -= counts[-1]
        return counts

    with (
        mock.patch.object(Speculator, "_best_counts", best_counts),
        mock.patch("narrows.engine.speculation.LEAST_GAIN", -1e9),
    ):
        yield


class DrawnRunner(FakeRunner):
    """Notes every token drawn."""

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        self.drawn: list[int] = []

    def run(self, step: Step) -> StepResult:
        result = super().run(step)
        self.drawn += [sampled.token_id for one in result.sequences for sampled in one.drawn]
        return result


def drawn_alone(request: GenerationRequest, runner: DrawnRunner) -> list[int]:
    """All tokens that a request draws by itself without guesses, its end token included."""
    driver = Driver(make_engine(runner, speculation="off"))
    driver.submit(1, request)
    driver.finish()
    return runner.drawn


def knowing(truths: dict[int, list[int]], *, longest: int = 6) -> Guesser:
    """Right guesses, as many as chance will have it, then wrong ones."""

    def guess(request: Request, most: int) -> list[int]:
        source = random.Random(f"{request.request_id}/{request.num_total}")
        truth = truths.get(request.request_id, [])[request.num_output :]
        right = truth[: source.randint(0, longest)]
        wrong = [source.randrange(97, 123) for _ in range(source.randint(0, 3))]
        return [token_id for token_id in right + wrong if token_id >= 0][:most]

    return guess
