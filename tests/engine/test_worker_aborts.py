"""Requests that end early, in whatever way: nothing leaks, nothing else changes."""

from __future__ import annotations

import asyncio
import gc
import random
import time

import pytest
from engine_cases import (
    Answer,
    MakeWorker,
    answer_alone,
    ask,
    collect,
    collect_async,
    wait_until,
)

from narrows.engine.fake import FakeRunner


def halting_runner() -> FakeRunner:
    """Gives one token and then waits for its gate: a slow test cannot miss the middle of an answer."""

    def choose(ids: object, index: int) -> None:
        if index == 0:
            runner.gate.clear()

    runner = FakeRunner(alphabet=tuple(b"xyz"), choose=choose)
    return runner


def test_abort_gives_a_last_chunk_and_frees_everything(worker_of: MakeWorker) -> None:
    runner = FakeRunner(alphabet=tuple(b"xyz"))
    worker = worker_of(runner)
    runner.step_s = 0.001
    stream = worker.submit(ask("a", 400))
    next(stream)
    stream.abort()
    stream.abort()
    rest = list(stream)
    assert rest[-1].finish_reason == "abort"
    assert list(stream) == []
    wait_until(lambda: worker.stats().num_used_blocks == 0)
    assert worker.stats().finished_abort_total == 1


def test_a_waiting_request_can_be_aborted(worker_of: MakeWorker) -> None:
    runner = FakeRunner()
    worker = worker_of(runner, max_running=1)
    runner.gate.clear()
    running, waiting = worker.submit(ask("a", 3)), worker.submit(ask("b", 3))
    waiting.abort()
    runner.gate.set()
    chunk = next(waiting)
    assert (chunk.finish_reason, chunk.text) == ("abort", "")
    assert collect(running).gist == answer_alone(ask("a", 3)).gist


@pytest.mark.parametrize("way", ["with", "drop"])
def test_leaving_or_dropping_a_stream_aborts_its_request(worker_of: MakeWorker, way: str) -> None:
    runner = FakeRunner(alphabet=tuple(b"xyz"))
    runner.step_s = 0.001
    worker = worker_of(runner)
    if way == "with":
        with worker.submit(ask("a", 400)) as stream:
            next(stream)
    else:
        stream = worker.submit(ask("a", 400))
        next(stream)
        del stream
        gc.collect()
    wait_until(lambda: worker.stats().finished_abort_total == 1)
    assert worker.stats().output_tokens_total < 400


def test_cancelling_the_reading_task_aborts_the_request(worker_of: MakeWorker) -> None:
    runner = halting_runner()
    worker = worker_of(runner)

    async def cancel_midway() -> None:
        stream = worker.submit(ask("a", 400))
        await anext(stream)
        task = asyncio.create_task(collect_async(stream))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        runner.gate.set()
        # The stream is still referred to: the cancellation, not its collection, aborted the request.
        while worker.stats().finished_abort_total == 0:
            await asyncio.sleep(0.001)
        assert stream.request_id == 1

    asyncio.run(asyncio.wait_for(cancel_midway(), 5))


def test_after_an_abort_at_most_the_step_under_way_still_runs(worker_of: MakeWorker) -> None:
    runner = halting_runner()
    worker = worker_of(runner)
    stream = worker.submit(ask("a", 400))
    next(stream)
    time.sleep(0.02)
    steps = runner.num_steps
    stream.abort()
    runner.gate.set()
    wait_until(lambda: worker.stats().finished_abort_total == 1)
    assert runner.num_steps <= steps + 1


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_aborts_leaks_nothing_and_changes_no_other(worker_of: MakeWorker, seed: int) -> None:
    source = random.Random(seed)
    runner = FakeRunner(num_blocks=60, block_size=4, max_context=200)
    worker = worker_of(runner, max_running=24)
    requests = [ask("s" * source.randint(1, 40), 40, seed=index, ignore_eos=True) for index in range(64)]
    doomed = set(source.sample(range(64), 32))

    async def read(index: int) -> Answer | None:
        async with worker.submit(requests[index]) as stream:
            if index not in doomed:
                return await collect_async(stream)
            for _ in range(source.randint(0, 30)):
                await anext(stream, None)
            return None

    async def read_all() -> list[Answer | None]:
        return await asyncio.gather(*(read(index) for index in range(64)))

    answers = asyncio.run(read_all())
    assert worker.drain(5)
    stats = worker.stats()
    assert (stats.num_used_blocks, stats.num_running, stats.num_waiting, runner.num_samplers) == (0, 0, 0, 0)
    assert stats.preempted_total > 0
    worker.check_health()
    for index, answer in enumerate(answers):
        if answer is not None:
            assert answer.gist == answer_alone(requests[index]).gist


def test_a_loop_that_is_gone_aborts_its_requests(worker_of: MakeWorker) -> None:
    runner = halting_runner()
    worker = worker_of(runner)
    loop = asyncio.new_event_loop()
    stream = worker.submit(ask("a", 400))

    async def read_on() -> None:
        await anext(stream)
        runner.gate.clear()
        await asyncio.sleep(0.02)
        while True:
            await anext(stream)

    task = loop.create_task(read_on())
    with pytest.raises(TimeoutError):
        loop.run_until_complete(asyncio.wait_for(asyncio.shield(task), 0.1))
    # The loop dies while the task waits in it, as when a server is torn down without care.
    loop.close()
    runner.gate.set()
    wait_until(lambda: worker.stats().finished_abort_total == 1)
    worker.check_health()
    task._log_destroy_pending = False
