"""The engine in its thread: streams, failures, cancellation, overload, slow readers, shutting down."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from engine_cases import (
    Answer,
    MakeWorker,
    answer_alone,
    ask,
    collect,
    collect_async,
    make_worker,
    wait_until,
)

from narrows.engine.fake import FakeRunner
from narrows.errors import InternalError, InvalidModel, InvalidRequest, Overloaded, RequestAborted


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
