"""The policy in simulated worlds, where a step of m rows takes T(m) and a text is given: no clock is read."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from narrows.engine.request import Request
from narrows.engine.speculation import AUTO_STEP_S, MAX_STREAMS, PLAN_STEPS, REFRESH_STEPS, Speculator
from narrows.engine.step import SamplingParams
from narrows.engine.step_times import STALE_STEPS, StepTimes

pytest.importorskip("narrows._core", reason="the native core is not built")

Curve = Callable[[int], float]

FLAT: Curve = lambda rows: 1 + 0.01 * (rows - 1)  # noqa: E731
CPU: Curve = lambda rows: 1 + 0.04 * (rows - 1) + (0.8 if rows > 8 else 0)  # noqa: E731
STEEP: Curve = lambda rows: 0.3 + 0.7 * rows  # noqa: E731
CURVES = {"flat": FLAT, "cpu": CPU, "steep": STEEP}


def make_request(request_id: int, prompt: Sequence[int], *, stop: tuple[int, ...] = ()) -> Request:
    params = SamplingParams(stop_token_ids=stop)
    return Request(request_id, len(prompt), params, 1 << 20, frozenset(), list(prompt))


class World:
    """Streams whose outputs are given, decoded together with a policy or without."""

    def __init__(
        self, curve: Curve, texts: Sequence[tuple[list[int], list[int]]], *, noise: float = 0.0
    ) -> None:
        self.speculator = Speculator(max_draft=15, share=False)
        self.curve = curve
        self.noise = noise
        self.source = random.Random(7)
        self.outputs = [output for _, output in texts]
        self.requests = [make_request(index, prompt) for index, (prompt, _) in enumerate(texts)]
        for request, output in zip(self.requests, self.outputs, strict=True):
            request.token_ids.append(output[0])
        self.num_steps = 0
        self.num_rows = 0

    def run(self) -> float:
        """Seconds until every stream is at its end."""
        total_s = 0.0
        while under_way := [r for r in self.requests if r.num_output < len(self.outputs[r.request_id])]:
            guesses = self.speculator.choose(under_way, self.room, max_rows=512) or [[]] * len(under_way)
            for request, guess in zip(under_way, guesses, strict=True):
                self.verify(request, guess)
            num_rows = len(under_way) + sum(map(len, guesses))
            seconds = self.curve(num_rows) * (1 + self.noise * self.source.random())
            if self.noise and self.source.random() < 0.05:
                seconds *= 4  # somebody else had the machine
            self.speculator.times.add(num_rows, seconds)
            total_s += seconds
            self.num_steps += 1
            self.num_rows += num_rows
        return total_s

    def room(self, request: Request, most: int) -> int:
        return min(most, len(self.outputs[request.request_id]) - request.num_output - 1)

    def verify(self, request: Request, guess: list[int]) -> None:
        truth = self.outputs[request.request_id][request.num_output :]
        num_right = 0
        while num_right < len(guess) and guess[num_right] == truth[num_right]:
            num_right += 1
        request.token_ids += truth[: num_right + 1]


def ratio(curve: Curve, texts: Sequence[tuple[list[int], list[int]]], *, noise: float = 0.0) -> float:
    """Seconds without guesses / with."""
    lengths = sorted(len(output) - 1 for _, output in texts)
    plain_s = 0.0
    done = 0
    for index, length in enumerate(lengths):
        plain_s += curve(len(lengths) - index) * (length - done)
        done = length
    expected_noise = (1 + noise / 2) * (1.15 if noise else 1.0)
    return plain_s * expected_noise / World(curve, texts, noise=noise).run()


def novel(seed: int, count: int = 800, vocab: int = 300) -> tuple[list[int], list[int]]:
    """A text that repeats single tokens and pairs as texts do, but never goes on as it did."""
    source = random.Random(seed)
    tokens = [min(int(source.expovariate(1) * 12), vocab) for _ in range(count + 60)]
    return tokens[:60], tokens[60:]


def copy(seed: int, count: int = 400) -> tuple[list[int], list[int]]:
    """The prompt's text once more, with an edit every 40 tokens or so."""
    source = random.Random(seed)
    text = [source.randrange(5000) for _ in range(count)]
    output = [source.randrange(5000) if source.random() < 1 / 40 else token for token in text]
    return [*text, 1, 2, 3], output


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("num_streams", [1, 3, 12, 30])
def test_texts_that_do_not_repeat_lose_nothing(curve: Curve, num_streams: int) -> None:
    assert ratio(curve, [novel(seed) for seed in range(num_streams)]) >= 0.98


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_copies_lose_nothing_whatever_rows_cost(curve: Curve) -> None:
    for num_streams in (1, 4, 16, 30):
        assert ratio(curve, [copy(seed) for seed in range(num_streams)]) >= 0.98


def test_copies_are_twice_as_fast_where_rows_cost_little() -> None:
    assert ratio(FLAT, [copy(1)]) >= 4
    assert ratio(CPU, [copy(1)]) >= 2.5
    assert ratio(FLAT, [copy(seed) for seed in range(4)]) >= 2


def test_a_machine_that_others_use_too_loses_little() -> None:
    for seed in range(5):
        assert ratio(CPU, [novel(seed)], noise=0.2) >= 0.96  # of an expectation: the noise itself is left
        assert ratio(CPU, [copy(seed)], noise=0.2) >= 2


def choose(world: World, room: int = 100, *, max_rows: int = 512) -> list[list[int]] | None:
    return world.speculator.choose(world.requests, lambda _, most: min(most, room), max_rows=max_rows)


def test_nothing_is_guessed_beyond_so_many_streams() -> None:
    for num_streams in (MAX_STREAMS, MAX_STREAMS + 1):
        world = World(FLAT, [([*range(9), 1, 2, 3, 4], [5, 6, 7])] * num_streams)
        world.speculator.times.add(num_streams, 1.0)
        assert (choose(world) is None) == (num_streams > MAX_STREAMS)


def test_the_first_step_measures_and_later_ones_guess() -> None:
    world = World(FLAT, [([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4], [5, 6, 7, 8, 9, 9])])
    assert choose(world) is None
    world.speculator.times.add(1, 1.0)
    assert choose(world) == [[6]]  # at most twice the rows that were ever run
    world.speculator.times.add(8, 1.2)
    guesses = choose(world)
    assert guesses is not None
    assert guesses[0][:3] == [6, 7, 8]
    assert choose(world, room=2) == [[6, 7]]
    assert choose(world, max_rows=2) == [[6]]
    assert choose(world, room=0) is None


def test_a_step_without_guesses_is_run_now_and_then() -> None:
    world = World(FLAT, [copy(1, 4000)])
    world.run()
    assert world.num_steps < 1000  # guesses were right most of the time
    assert world.speculator.times.age(1) <= REFRESH_STEPS + PLAN_STEPS


def test_no_guess_reaches_beyond_an_end_token() -> None:
    world = World(FLAT, [([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], [4, 5, 6])])
    world.requests = [make_request(0, [1, 2, 3, 4, 5, 6, 7, 1, 2, 3], stop=(6,))]
    world.requests[0].token_ids.append(4)
    world.speculator.times.add(1, 1.0)
    assert choose(world) == [[5]]


@pytest.mark.parametrize(("step_s", "guesses"), [(AUTO_STEP_S / 2, False), (AUTO_STEP_S * 2, True)])
def test_steps_may_be_too_short_to_be_worth_a_guess(step_s: float, guesses: bool) -> None:
    world = World(lambda num_rows: step_s * FLAT(num_rows) / FLAT(1), [copy(1)])
    world.speculator = Speculator(max_draft=15, share=False, least_step_s=AUTO_STEP_S)
    assert not world.speculator.is_resting()
    world.run()
    assert (world.num_rows > world.num_steps) == guesses
    assert world.speculator.is_resting() == (not guesses)


def estimate(times: StepTimes, num_rows: int) -> float:
    return times.estimates([num_rows])[0]


def test_times_are_medians_and_lines_between_them() -> None:
    times = StepTimes()
    assert times.estimates([4]) == []
    for seconds in (1.0, 1.0, 9.0, 1.1, 1.0):
        times.add(1, seconds)
    assert estimate(times, 1) == 1.0
    assert 1.0 < estimate(times, 8) < 1.3  # nobody knows: hopeful
    times.add(5, 3.0)
    assert times.estimates([1, 3, 4, 5]) == pytest.approx([1.0, 2.0, 2.5, 3.0])
    assert estimate(times, 6) == pytest.approx(3.0 + 0.75 * 0.5)  # known rows cost 0.5 each
    late = StepTimes()
    late.add(5, 3.0)
    assert 2.0 < estimate(late, 1) < 3.0


def test_times_are_forgotten_when_they_are_old() -> None:
    times = StepTimes()
    times.add(8, 100.0)  # an interrupted step
    for _ in range(STALE_STEPS):
        times.add(1, 1.0)
    assert estimate(times, 8) == 100.0
    times.add(1, 1.0)
    assert estimate(times, 8) < 2.0
    times.add(8, 1.5)
    assert estimate(times, 8) == 1.5
