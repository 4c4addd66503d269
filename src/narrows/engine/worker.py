"""Gives an engine its thread: the EngineClient of this process.

Commands (add, abort, stop) come through one queue, on which the thread sleeps while there is no work; outputs
go to mailboxes, each event loop woken once per step. Any exception in the thread reaches every reader as
InternalError.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from time import perf_counter

from narrows.engine.client import EngineInfo, EngineStats, RequestStream
from narrows.engine.engine import Engine, Output, Ticket
from narrows.engine.mailbox import Mailbox, MailboxStream, Wakeups
from narrows.engine.request import GenerationRequest
from narrows.errors import InternalError, NarrowsError, Overloaded, RequestAborted

logger = logging.getLogger(__name__)

MIN_RETRY_AFTER_S = 0.5
MAX_RETRY_AFTER_S = 60.0


class EngineWorker:
    """An EngineClient. The engine and its runner are touched by one thread only, once this is made."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._capacity = engine.info.max_running + engine.info.max_waiting
        self._request_ids = itertools.count(1)
        # SimpleQueue.put is reentrant: a stream may be collected, and so aborted, in the middle of anything.
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Condition()  # guards what stands below; notified when the last request ends
        self._mailboxes: dict[int, Mailbox] = {}
        self._is_accepting = True
        self._failure: BaseException | None = None
        self._num_refused = 0
        self._must_stop = False  # of the thread
        self._busy_s = 0.0  # of the thread
        self._ended_s: deque[float] = deque(maxlen=32)  # busy seconds at which the last requests ended
        # A daemon, so that a forgotten engine does not hang the interpreter; but it must not outlive it
        # either, for native code that wants the GIL of a finished interpreter ends the process.
        self._thread = threading.Thread(target=self._main, name="narrows-engine", daemon=True)
        atexit.register(self.close)
        self._thread.start()

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def submit(self, request: GenerationRequest) -> RequestStream:
        ticket = self._engine.prepare(next(self._request_ids), request)
        request_id = ticket.request.request_id
        mailbox = Mailbox()
        with self._lock:
            self._check_accepting()
            if len(self._mailboxes) >= self._capacity:
                self._num_refused += 1
                raise self._overloaded()
            self._mailboxes[request_id] = mailbox
            self._commands.put(partial(self._add, ticket))
        return MailboxStream(request_id, mailbox, abort=self._request_abort)

    def stats(self) -> EngineStats:
        counters, scheduler = self._engine.counters, self._engine.scheduler
        num_running = len(scheduler.running)
        return EngineStats(
            is_healthy=self._failure is None and self._thread.is_alive(),
            is_accepting=self._is_accepting and self._failure is None,
            num_running=num_running,
            num_waiting=max(0, len(self._mailboxes) - num_running),
            num_blocks=scheduler.pool.num_blocks,
            num_used_blocks=scheduler.pool.num_used,
            steps_total=counters.steps,
            steps_by_batch_total=tuple(counters.steps_by_batch),
            sequences_total=counters.sequences,
            step_tokens_total=counters.step_tokens,
            prompt_tokens_total=counters.prompt_tokens,
            output_tokens_total=counters.output_tokens,
            drafted_tokens_total=counters.drafted,
            accepted_tokens_total=counters.accepted,
            preempted_total=scheduler.num_preempted,
            finished_stop_total=counters.stopped,
            finished_length_total=counters.reached_length,
            finished_abort_total=counters.aborted,
            failed_total=counters.failed,
            refused_total=self._num_refused,
            run_s_total=counters.run_s,
            busy_s_total=self._busy_s,
        )

    def check_health(self) -> None:
        if self._failure is not None:
            raise _broken(self._failure)
        if not self._thread.is_alive():
            raise RequestAborted("the engine is closed; start a new one")

    def drain(self, timeout_s: float) -> bool:
        with self._lock:
            self._is_accepting = False
            return self._lock.wait_for(lambda: not self._mailboxes, timeout_s)

    def close(self) -> None:
        atexit.unregister(self.close)
        with self._lock:
            self._is_accepting = False
        self._commands.put(self._stop)
        if threading.current_thread() is not self._thread:  # a collected LLM may be closed from anywhere
            self._thread.join()

    def _check_accepting(self) -> None:
        if self._failure is not None:
            raise _broken(self._failure)
        if not self._is_accepting:
            raise RequestAborted("the engine is shutting down and takes no new requests; send it elsewhere")

    def _overloaded(self) -> Overloaded:
        """With the time after which, at the rate of the last requests, today's queue has gone through."""
        num_waiting = len(self._mailboxes) - self.info.max_running
        per_request_s = (self._busy_s - self._ended_s[0]) / len(self._ended_s) if self._ended_s else 1.0
        retry_after_s = min(max(per_request_s * max(num_waiting, 1), MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
        return Overloaded(
            f"{len(self._mailboxes)} requests are under way, {self.info.max_running} of them running: "
            f"the queue is full; try again in {retry_after_s:.1f} s",
            retry_after_s=retry_after_s,
        )

    def _request_abort(self, request_id: int) -> None:
        self._commands.put(partial(self._abort, request_id))

    # The engine's thread runs what follows.

    def _main(self) -> None:
        try:
            while not self._must_stop:
                if not self._engine.has_work:
                    self._engine.check_idle()
                    self._commands.get()()
                began_s = perf_counter()
                while not self._commands.empty():
                    self._commands.get()()
                if self._engine.has_work and not self._must_stop:
                    self._deliver(self._engine.step())
                    self._busy_s += perf_counter() - began_s
        except BaseException as error:
            logger.exception("the engine has failed")
            self._failure = error
        finally:
            self._end()

    def _stop(self) -> None:
        self._must_stop = True

    def _add(self, ticket: Ticket) -> None:
        output = self._engine.add(ticket)
        if output is not None:
            self._deliver([output])

    def _abort(self, request_id: int) -> None:
        output = self._engine.abort(request_id)
        if output is not None:
            self._deliver([output])

    def _deliver(self, outputs: list[Output]) -> None:
        wakeups = Wakeups()
        for output in outputs:
            item = output.chunk or output.error
            assert item is not None
            request_id = output.request_id
            mailbox = self._forget(request_id) if output.is_last else self._mailboxes[request_id]
            wakeups.add(request_id, mailbox.put(item))
        for request_id in wakeups.send():
            self._abort(request_id)

    def _forget(self, request_id: int) -> Mailbox:
        with self._lock:
            self._ended_s.append(self._busy_s)
            mailbox = self._mailboxes.pop(request_id)
            if not self._mailboxes:
                self._lock.notify_all()
        return mailbox

    def _end(self) -> None:
        """Nobody waits for a thread that is gone."""
        with self._lock:
            self._is_accepting = False
            mailboxes = dict(self._mailboxes)
            self._mailboxes.clear()
            self._lock.notify_all()
        wakeups = Wakeups()
        for request_id, mailbox in mailboxes.items():
            wakeups.add(request_id, mailbox.put(self._last_error()))
        wakeups.send()
        try:
            self._engine.close()
        except Exception:
            logger.exception("the runner could not be closed")

    def _last_error(self) -> NarrowsError:
        if self._failure is not None:
            return _broken(self._failure)
        return RequestAborted("the engine was closed before the request was finished; send it again")


def _broken(failure: BaseException) -> InternalError:
    error = InternalError(f"the engine has failed and must be restarted: {type(failure).__name__}: {failure}")
    error.__cause__ = failure
    return error
