"""The engine in its thread: streams, failures, cancellation, overload, slow readers, shutting down."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from engine_cases import Answer, answer_alone, ask, collect, make_engine, make_worker

from narrows.engine.fake import FakeRunner
from narrows.engine.mailbox import MailboxStream
from narrows.engine.worker import EngineWorker
from narrows.errors import InternalError, InvalidModel, InvalidRequest, Overloaded, RequestAborted

MakeWorker = Callable[..., EngineWorker]


@pytest.fixture
def worker_of() -> Iterator[MakeWorker]:
    """Makes workers and closes them; what they hold at the end is nothing."""
    made: list[tuple[EngineWorker, FakeRunner]] = []

    def make(runner: FakeRunner | None = None, **settings) -> EngineWorker:
        runner = runner or FakeRunner()
        made.append((EngineWorker(make_engine(runner, **settings)), runner))
        return made[-1][0]

    yield make
    for worker, runner in made:
        runner.gate.set()
        worker.close()
        assert runner.is_closed


def wait_until(is_true: Callable[[], bool], *, timeout_s: float = 5.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.001)


async def collect_async(stream: MailboxStream) -> Answer:
    answer = Answer()
    async for chunk in stream:
        answer.add(chunk)
    return answer


def test_streams_in_threads_and_in_a_loop_give_the_answers_of_a_lone_request(worker_of: MakeWorker) -> None:
    requests = [ask("p" * (1 + 5 * index), 20, seed=index, stop=("ab",)) for index in range(12)]
    worker = worker_of(FakeRunner(num_blocks=40, block_size=4, max_context=128))

    async def read_all() -> list[Answer]:
        return await asyncio.gather(*(collect_async(worker.submit(request)) for request in requests))

    from_threads = [collect(stream) for stream in [worker.submit(request) for request in requests]]
    from_loop = asyncio.run(read_all())
    for request, one, two in zip(requests, from_threads, from_loop, strict=True):
        assert one.gist == two.gist == answer_alone(request).gist


def test_timing_adds_up(worker_of: MakeWorker) -> None:
    runner = FakeRunner()
    runner.step_s = 0.002
    last = collect(worker_of(runner).submit(ask("abc", 5, ignore_eos=True))).chunks[-1]
    timing = last.timing
    assert timing is not None
    assert (timing.num_prompt, timing.num_output, timing.num_preempted) == (3, 5, 0)
    assert timing.queue_s + timing.prefill_s == pytest.approx(timing.ttft_s)
    assert timing.prefill_s >= 0.002
    assert timing.decode_s >= 4 * 0.002
    assert timing.total_s >= timing.ttft_s + timing.decode_s


def test_a_failure_in_the_thread_reaches_every_reader_and_later_callers(
    worker_of: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    runner = FakeRunner()
    worker = worker_of(runner, max_running=2)
    runner.gate.clear()
    streams = [worker.submit(ask(seed=index, ignore_eos=True)) for index in range(5)]
    runner.failure = RuntimeError("the kernel is on fire")
    with caplog.at_level(logging.CRITICAL):
        runner.gate.set()
        for stream in streams:
            with pytest.raises(InternalError, match="on fire") as caught:
                collect(stream)
            assert caught.value.__cause__ is runner.failure
        worker.drain(1)
    with pytest.raises(InternalError, match="restarted"):
        worker.submit(ask())
    with pytest.raises(InternalError):
        worker.check_health()
    assert not worker.stats().is_healthy


def test_a_failure_reaches_readers_in_a_loop(worker_of: MakeWorker) -> None:
    runner = FakeRunner()
    worker = worker_of(runner)
    runner.failure = MemoryError()

    async def read() -> None:
        with pytest.raises(InternalError, match="MemoryError"):
            await collect_async(worker.submit(ask()))

    asyncio.run(read())


def test_chunks_already_made_come_before_the_error(worker_of: MakeWorker) -> None:
    def fail_at_the_fourth(_: tuple[int, ...], index: int) -> int:
        if index == 3:
            raise RuntimeError("late")
        return ord("x")

    stream = worker_of(FakeRunner(choose=fail_at_the_fourth)).submit(ask("a", 100))
    assert [next(stream).text for _ in range(3)] == ["x", "x", "x"]
    with pytest.raises(InternalError, match="late"):
        next(stream)
    assert list(stream) == []


def test_a_request_that_fails_alone_leaves_the_engine_healthy(worker_of: MakeWorker) -> None:
    runner = FakeRunner()
    runner.poison_id = ord("!")
    worker = worker_of(runner)
    good = worker.submit(ask("good", 9))
    with pytest.raises(InvalidModel, match="not finite"):
        collect(worker.submit(ask("bad!", 9)))
    assert collect(good).gist == answer_alone(ask("good", 9)).gist
    worker.check_health()
    assert worker.stats().failed_total == 1


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
    runner = FakeRunner(alphabet=tuple(b"xyz"))
    worker = worker_of(runner)

    async def cancel_midway() -> None:
        stream = worker.submit(ask("a", 400))
        await anext(stream)
        runner.gate.clear()
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
    runner = FakeRunner(alphabet=tuple(b"xyz"))
    worker = worker_of(runner)
    stream = worker.submit(ask("a", 400))
    next(stream)
    runner.gate.clear()
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


def test_a_reader_that_does_not_read_holds_nobody_up(worker_of: MakeWorker) -> None:
    worker = worker_of()
    asleep = worker.submit(ask("slow", 50, ignore_eos=True))
    awake = collect(worker.submit(ask("fast", 50, ignore_eos=True)))
    assert awake.finish_reason == "length"
    wait_until(lambda: worker.stats().finished_length_total == 2)
    assert collect(asleep).gist == answer_alone(ask("slow", 50, ignore_eos=True)).gist


def test_more_requests_than_fit_are_refused_with_a_time_to_come_back(worker_of: MakeWorker) -> None:
    runner = FakeRunner()
    worker = worker_of(runner, max_running=2, max_waiting=3)
    runner.gate.clear()
    streams = [worker.submit(ask(seed=index)) for index in range(5)]
    with pytest.raises(Overloaded, match="5 requests are under way, 2 of them running") as caught:
        worker.submit(ask())
    assert 0.5 <= caught.value.retry_after_s <= 60
    runner.gate.set()
    for stream in streams:
        collect(stream)
    assert worker.stats().refused_total == 1
    assert collect(worker.submit(ask())).finish_reason is not None


def test_the_time_to_come_back_follows_the_rate_of_recent_requests(worker_of: MakeWorker) -> None:
    runner = FakeRunner()
    runner.step_s = 0.05
    worker = worker_of(runner, max_running=1, max_waiting=20)
    for _ in range(6):
        collect(worker.submit(ask("a", 2, ignore_eos=True)))
    runner.gate.clear()
    streams = [worker.submit(ask("a", 2, ignore_eos=True)) for _ in range(21)]
    with pytest.raises(Overloaded) as caught:
        worker.submit(ask())
    for stream in streams:
        stream.abort()
    # 20 wait, each takes two steps of 50 ms; the first of the six counted with its queue already empty.
    assert 1.0 <= caught.value.retry_after_s <= 5.0


def test_bad_requests_are_refused_at_once(worker_of: MakeWorker) -> None:
    worker = worker_of()
    for request in (ask([]), ask("a", -1), ask("a", 8, temperature=-1.0), ask("a", 8, stop=("x",) * 5000)):
        with pytest.raises(InvalidRequest):
            worker.submit(request)
    worker.check_health()


def test_draining_finishes_what_is_under_way_and_takes_nothing_new(worker_of: MakeWorker) -> None:
    runner = FakeRunner()
    worker = worker_of(runner)
    runner.gate.clear()
    stream = worker.submit(ask("a", 5, ignore_eos=True))
    assert not worker.drain(0.02)
    with pytest.raises(RequestAborted, match="shutting down"):
        worker.submit(ask())
    assert not worker.stats().is_accepting
    runner.gate.set()
    assert worker.drain(5)
    assert collect(stream).gist == answer_alone(ask("a", 5, ignore_eos=True)).gist


def test_closing_ends_readers_with_an_error_and_may_be_repeated() -> None:
    runner = FakeRunner(alphabet=tuple(b"xyz"))
    runner.step_s = 0.001
    worker = make_worker(runner)
    stream = worker.submit(ask("a", 400))
    next(stream)
    worker.close()
    worker.close()
    with pytest.raises(RequestAborted, match="closed"):
        collect(stream)
    with pytest.raises(RequestAborted):
        worker.submit(ask())
    with pytest.raises(RequestAborted):
        worker.check_health()
    stream.abort()
    assert runner.is_closed


def test_a_loop_that_is_gone_aborts_its_requests(worker_of: MakeWorker) -> None:
    runner = FakeRunner(alphabet=tuple(b"xyz"))
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


def test_a_stream_has_one_reader(worker_of: MakeWorker) -> None:
    runner = FakeRunner()
    worker = worker_of(runner)
    runner.gate.clear()
    stream = worker.submit(ask())
    thread = threading.Thread(target=lambda: collect(stream))
    thread.start()
    wait_until(lambda: stream._mailbox.waiter is not None)
    with pytest.raises(InvalidRequest, match="one reader"):
        next(stream)
    runner.gate.set()
    thread.join()


def test_an_idle_engine_sleeps_and_wakes_at_once(worker_of: MakeWorker) -> None:
    worker = worker_of()
    collect(worker.submit(ask()))
    before_s = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before_s < 0.05
    began_s = time.perf_counter()
    next(worker.submit(ask()))
    assert time.perf_counter() - began_s < 0.5


def test_many_threads_submit_at_once(worker_of: MakeWorker) -> None:
    worker = worker_of(FakeRunner(num_blocks=64, block_size=4, max_context=128), max_running=8)
    answers: dict[int, Answer] = {}

    def work(index: int) -> None:
        answers[index] = collect(worker.submit(ask("t" * (index + 1), 10, seed=index)))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, answer in answers.items():
        assert answer.gist == answer_alone(ask("t" * (index + 1), 10, seed=index)).gist
