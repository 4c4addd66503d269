"""Decides what runs in a step, and takes in what came out of it. Speaks only of requests and block ids.

Inputs: requests, StepResults. Outputs: Steps. Decode rows come first, prefill chunks fill the rest, both
oldest first; a step of decode rows alone may also verify guesses (speculation.py), in blocks that nobody
needs. Where blocks run out the youngest request gives its own back and is computed again later: the oldest
always goes on, so everything ends. Knows no text, no tensors, no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from math import isnan

from narrows.engine.blocks import BlockPool
from narrows.engine.config import EngineConfig
from narrows.engine.request import FinishReason, Request
from narrows.engine.speculation import Speculator
from narrows.engine.step import RunnerInfo, Sampled, SequenceResult, SequenceStep, Step, StepResult
from narrows.errors import InternalError


class Scheduler:
    """Owns the requests under way and their blocks.

    Every running request is older than every waiting one, and both are kept oldest first.
    """

    def __init__(self, info: RunnerInfo, config: EngineConfig, speculator: Speculator | None = None) -> None:
        self.pool = BlockPool(info.num_blocks)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.admitted: list[Request] = []  # by the last schedule(), for the first time
        self.is_timed = False  # the last schedule() gave decode rows alone, and a speculator saw them
        self.num_preempted = 0
        self._requests: dict[int, Request] = {}
        self._block_size = info.block_size
        self._max_step_tokens = info.max_step_tokens
        self._max_running = min(config.max_running, info.max_step_tokens)  # so that every decode row fits
        self._prefill_chunk = config.prefill_chunk
        self._speculator = speculator

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def add(self, request: Request) -> None:
        self._requests[request.request_id] = request
        self.waiting.append(request)

    def get(self, request_id: int) -> Request | None:
        return self._requests.get(request_id)

    def schedule(self) -> Step:
        """The next step; not empty while there is work. Every schedule() is followed by its commit()."""
        self.admitted = []
        sequences = self._decode_rows()
        num_decode = len(sequences)
        budget = self._max_step_tokens - num_decode
        if sequences:
            budget = min(budget, self._prefill_chunk)
        budget = self._continue_prefills(sequences, budget)
        if self.waiting:
            self._admit(sequences, budget)
        speculator = self._speculator
        self.is_timed = (
            speculator is not None and len(sequences) == num_decode and not speculator.is_resting()
        )
        if speculator is not None and self.is_timed:
            self._add_guesses(sequences, speculator)
        if not sequences:
            raise InternalError("nothing could be scheduled although requests are under way")
        return Step(tuple(sequences))

    def commit(self, step: Step, result: StepResult) -> list[tuple[Request, tuple[Sampled, ...]]]:
        """Takes in a result. Returns the requests that drew tokens or ended; ended ones hold no blocks."""
        if len(step.sequences) != len(result.sequences):
            raise InternalError(f"{len(step.sequences)} sequences ran but {len(result.sequences)} came back")
        moved: list[tuple[Request, tuple[Sampled, ...]]] = []
        for sequence, outcome in zip(step.sequences, result.sequences, strict=True):
            request = self._requests[sequence.request_id]
            request.num_computed = sequence.start + len(sequence.token_ids)
            if sequence.targets and not _collect_prompt_logprobs(request, sequence, outcome):
                self.finish(request, None)
                moved.append((request, (Sampled(-1),)))
            elif sequence.sample:
                num_drawn = len(outcome.drawn)
                if not 0 < num_drawn <= sequence.num_draft + 1 or outcome.request_id != sequence.request_id:
                    raise InternalError(
                        f"the runner drew {num_drawn} tokens for request {sequence.request_id}"
                    )
                request.num_computed -= sequence.num_draft + 1 - num_drawn  # guesses that were wrong
                moved.append((request, self._take_tokens(request, outcome.drawn)))
            elif request.num_computed == request.num_total:  # max_tokens 0: the prompt is all there is
                self.finish(request, "length")
                moved.append((request, ()))
        return moved

    def finish(
        self, request: Request, reason: FinishReason | None, stop_reason: str | int | None = None
    ) -> None:
        """Ends a request, wherever it stands: its blocks are free at once."""
        request.finish_reason = reason
        request.stop_reason = stop_reason
        if self._requests.pop(request.request_id, None) is None:
            return
        if self._speculator is not None:
            self._speculator.forget(request)
        if request.block_ids:
            self.running.remove(request)
            self.pool.release(request.block_ids)
            request.block_ids = ()
        else:
            self.waiting.remove(request)

    def check_integrity(self) -> None:
        """Raises InternalError unless blocks, lists and counters agree."""
        self.pool.check_integrity(request.block_ids for request in self.running)
        listed = sorted(request.request_id for request in (*self.running, *self.waiting))
        if listed != sorted(self._requests):
            raise InternalError(f"requests {sorted(self._requests)} are under way but {listed} are listed")
        if any(request.block_ids or request.num_computed for request in self.waiting):
            raise InternalError("a waiting request holds blocks")

    def _decode_rows(self) -> list[SequenceStep]:
        rows: list[SequenceStep] = []
        index = 0
        while index < len(self.running):  # may shrink at its end while we go
            request = self.running[index]
            if len(request.token_ids) - request.num_computed == 1 and self._grow(request):
                rows.append(_sequence(request, 1))
            index += 1
        return rows

    def _continue_prefills(self, sequences: list[SequenceStep], budget: int) -> int:
        for request in self.running:
            num_left = len(request.token_ids) - request.num_computed
            if num_left > 1 and budget > 0:
                count = min(num_left, budget)
                sequences.append(_sequence(request, count))
                budget -= count
        return budget

    def _admit(self, sequences: list[SequenceStep], budget: int) -> None:
        """Waiting requests in their order, each with the blocks for all the tokens it has so far."""
        while self.waiting and budget > 0 and len(self.running) < self._max_running:
            request = self.waiting[0]
            needed = -(-len(request.token_ids) // self._block_size)
            # One block kept per running request: without it the next decode rows would drive this one out
            # again.
            if needed + len(self.running) > self.pool.num_free and self.running:
                return
            self.waiting.popleft()
            request.block_ids = self.pool.allocate(needed)
            self.running.append(request)
            if request.num_preempted == 0:
                self.admitted.append(request)
            count = min(len(request.token_ids), budget)
            sequences.append(_sequence(request, count))
            budget -= count

    def _grow(self, request: Request) -> bool:
        """Gives a request the block for its next token; False where it had to give up its own blocks."""
        if len(request.token_ids) <= len(request.block_ids) * self._block_size:
            return True
        while self.pool.num_free == 0:
            victim = self.running.pop()
            self._preempt(victim)
            if victim is request:
                return False
        request.block_ids += self.pool.allocate(1)
        return True

    def _preempt(self, request: Request) -> None:
        """Back to the front of the queue. Its tokens stay; their keys and values will be computed again."""
        self.pool.release(request.block_ids)
        request.block_ids = ()
        request.num_computed = 0
        request.num_preempted += 1
        self.num_preempted += 1
        self.waiting.appendleft(request)

    def _add_guesses(self, rows: list[SequenceStep], speculator: Speculator) -> None:
        """Guesses beside the decode rows, in blocks already held or free beyond the one kept per request."""
        requests = [self._requests[row.request_id] for row in rows]
        guesses = speculator.choose(requests, self._room, max_rows=self._max_step_tokens)
        if guesses is None:
            return
        for index, (request, guess) in enumerate(zip(requests, guesses, strict=True)):
            guess = guess[: self._room(request, len(guess))]  # those before may have taken the blocks
            if not guess:
                continue
            missing = len(request.token_ids) + len(guess) - len(request.block_ids) * self._block_size
            if missing > 0:
                request.block_ids += self.pool.allocate(-(-missing // self._block_size))
            rows[index] = replace(
                rows[index],
                token_ids=(*rows[index].token_ids, *guess),
                block_ids=request.block_ids,
                num_draft=len(guess),
            )

    def _room(self, request: Request, most: int) -> int:
        """Guesses that a request may have in the next step: none before its first token."""
        if request.num_output == 0 or most == 0:
            return 0
        num_blocks = len(request.block_ids) + max(0, self.pool.num_free - len(self.running))
        in_blocks = num_blocks * self._block_size - len(request.token_ids)
        return max(0, min(most, in_blocks, request.max_tokens - request.num_output - 1))

    def _take_tokens(self, request: Request, drawn: tuple[Sampled, ...]) -> tuple[Sampled, ...]:
        """Appends what was drawn, up to the token that ends the request; returns those tokens."""
        for index, sampled in enumerate(drawn):
            self._take_token(request, sampled)
            if request.request_id not in self._requests:
                return drawn[: index + 1]
        return drawn

    def _take_token(self, request: Request, sampled: Sampled) -> None:
        token_id = sampled.token_id
        if token_id < 0:  # logits were not finite: only this request fails
            self.finish(request, None)
            return
        request.token_ids.append(token_id)
        if token_id in request.params.stop_token_ids:
            self.finish(request, "stop", None if token_id in request.eos_ids else token_id)
        elif request.num_output >= request.max_tokens:
            self.finish(request, "length")


def _sequence(request: Request, count: int) -> SequenceStep:
    start = request.num_computed
    end = start + count
    return SequenceStep(
        request_id=request.request_id,
        token_ids=tuple(request.token_ids[start:end]),
        start=start,
        block_ids=request.block_ids,
        sample=end == len(request.token_ids) and request.max_tokens > 0,
        targets=_targets(request, start, end) if request.prompt_top is not None else (),
        target_top=request.prompt_top or 0,
    )


def _targets(request: Request, start: int, end: int) -> tuple[int, ...]:
    """Row i predicts prompt token i + 1. Rows recomputed after a preemption are not asked twice."""
    first = max(start, len(request.prompt_logprobs))
    last = min(end, request.num_prompt - 1)
    if first >= last:
        return ()
    return (-1,) * (first - start) + tuple(request.token_ids[first + 1 : last + 1]) + (-1,) * (end - last)


def _collect_prompt_logprobs(request: Request, sequence: SequenceStep, outcome: SequenceResult) -> bool:
    """False where the model's output was not finite: no token need be drawn to find that out."""
    if len(outcome.targets) != len(sequence.targets):
        raise InternalError(f"{len(sequence.targets)} logprobs wanted, {len(outcome.targets)} came back")
    for token_id, entry in zip(sequence.targets, outcome.targets, strict=True):
        if token_id >= 0:
            if entry is None:
                raise InternalError("a prompt logprob is missing")
            if isnan(entry[0].logprob):
                return False
            request.prompt_logprobs.append(entry)
    return True
