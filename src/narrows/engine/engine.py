"""Runs requests on a runner, step by step: schedule, run, commit, and the text that comes of it.

Inputs: tickets (checked requests). Outputs: per step the chunks and errors, each with its request's id.
Single-threaded: worker.py gives it a thread and carries its outputs to readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

from narrows.engine.client import Chunk, EngineInfo, Timing, TokenRecord
from narrows.engine.config import EngineConfig
from narrows.engine.detokenize import Vocabulary
from narrows.engine.output import OutputRules, OutputText, prompt_records
from narrows.engine.request import GenerationRequest, Request, RequestLimits, make_request
from narrows.engine.scheduler import Scheduler
from narrows.engine.speculation import AUTO_STEP_S, Speculator
from narrows.engine.step import Runner, Sampled, Step, StepResult
from narrows.engine.stopper import make_automaton
from narrows.errors import InternalError, InvalidModel, NarrowsError


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that has passed every check, ready to be added."""

    request: Request
    text: OutputText


@dataclass(frozen=True, slots=True)
class Output:
    """What a request gave in a step: a chunk or, as its end, an error."""

    request_id: int
    chunk: Chunk | None = None
    error: NarrowsError | None = None

    @property
    def is_last(self) -> bool:
        return self.chunk is None or self.chunk.finish_reason is not None


@dataclass(slots=True)
class EngineCounters:
    """Sums since the start; written by the engine's thread, read by any."""

    steps_by_batch: list[int]  # [i]: steps of more than 2 ** (i - 1) and at most 2 ** i requests
    steps: int = 0
    sequences: int = 0
    step_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    drafted: int = 0  # guesses verified
    accepted: int = 0  # of those, right
    stopped: int = 0
    reached_length: int = 0
    aborted: int = 0
    failed: int = 0
    run_s: float = 0.0


class Engine:
    """Owns the scheduler and the runner, and the text of every request under way."""

    def __init__(
        self, runner: Runner, vocabulary: Vocabulary, *, eos_ids: frozenset[int], config: EngineConfig
    ) -> None:
        info = runner.info
        self._speculator = _make_speculator(config)
        self.scheduler = Scheduler(info, config, self._speculator)
        # One request always fits into the pool, so the oldest can always go on.
        max_context = min(
            info.max_context, info.num_blocks * info.block_size, config.max_context or info.max_context
        )
        self.info = EngineInfo(
            vocab_size=info.vocab_size,
            max_context=max_context,
            max_running=min(config.max_running, info.max_step_tokens),
            max_waiting=config.max_waiting,
            block_size=info.block_size,
            num_blocks=info.num_blocks,
            weight_bytes_per_step=info.weight_bytes_per_step,
            kv_bytes_per_token=info.kv_bytes_per_token,
            description={**info.description, "speculation": _shown_speculation(config)},
        )
        self.counters = EngineCounters([0] * (1 + _batch_bucket(self.info.max_running)))
        known_eos_ids = frozenset(token_id for token_id in eos_ids if token_id < info.vocab_size)
        self._limits = RequestLimits(info.vocab_size, max_context, known_eos_ids)
        self._runner = runner
        self._vocabulary = vocabulary
        self._texts: dict[int, OutputText] = {}

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def prepare(self, request_id: int, asked: GenerationRequest) -> Ticket:
        """Checks a request; raises InvalidRequest or ContextTooLong. Changes nothing: any thread may."""
        request = make_request(request_id, asked, self._limits)
        request.arrived_s = perf_counter()
        begins_text = asked.is_turn or not any(map(self._vocabulary.token_bytes, asked.prompt_ids))
        rules = OutputRules(
            make_automaton(asked.stop), asked.include_stop_text, begins_text, request.params.min_tokens
        )
        return Ticket(request, OutputText(self._vocabulary, rules))

    def add(self, ticket: Ticket) -> Output | None:
        """Queues a request. Gives its end where the runner does not take it: the others go on."""
        request = ticket.request
        try:
            self._runner.add(request.request_id, request.params, tuple(request.token_ids))
        except Exception as error:
            self.counters.failed += 1
            refusal = InternalError(f"the runner refused a request that had passed every check: {error}")
            refusal.__cause__ = error
            return Output(request.request_id, error=refusal)
        self._texts[request.request_id] = ticket.text
        self.scheduler.add(request)
        return None

    def abort(self, request_id: int) -> Output | None:
        """Ends a request between two steps: its blocks are free at once. None where it has ended already."""
        request = self.scheduler.get(request_id)
        if request is None:
            return None
        self.scheduler.finish(request, "abort")
        return Output(request_id, self._last_chunk(request, "", ()))

    def step(self) -> list[Output]:
        """Runs one step; there is work. An exception means that the engine is broken."""
        began_s = perf_counter()
        step = self.scheduler.schedule()
        self._note_admitted(began_s)
        run_began_s = perf_counter()
        result = self._runner.run(step)
        ran_s = perf_counter()
        num_rows = self._count(step, result, ran_s - run_began_s)
        moved = self.scheduler.commit(step, result)
        outputs = [output for request, drawn in moved for output in self._outputs(request, drawn, ran_s)]
        if self._speculator is not None and self.scheduler.is_timed:
            self._speculator.times.add(num_rows, perf_counter() - began_s)
        return outputs

    def check_idle(self) -> None:
        """Without work every block is free and nothing is left of any request; else InternalError."""
        self.scheduler.check_integrity()

    def close(self) -> None:
        self._runner.close()

    def _note_admitted(self, now_s: float) -> None:
        for request in self.scheduler.admitted:
            request.admitted_s = now_s
            self.counters.prompt_tokens += request.num_prompt

    def _outputs(self, request: Request, drawn: tuple[Sampled, ...], now_s: float) -> list[Output]:
        """The text that a step's tokens brought; nothing where there is nothing to show yet."""
        is_broken = bool(drawn) and drawn[-1].token_id < 0
        if is_broken:
            drawn = drawn[:-1]
            if not drawn:
                return [self._not_finite(request)]
        text, tokens = self._read(request, drawn, now_s)
        if request.finish_reason is not None:
            return [Output(request.request_id, self._last_chunk(request, text, tokens))]
        prompt_tokens = self._prompt_tokens(request)
        outputs: list[Output] = []
        if text or prompt_tokens:
            outputs.append(Output(request.request_id, Chunk(text, tokens, prompt_tokens)))
        if is_broken:
            outputs.append(self._not_finite(request))
        return outputs

    def _read(
        self, request: Request, drawn: tuple[Sampled, ...], now_s: float
    ) -> tuple[str, tuple[TokenRecord, ...]]:
        """Feeds the tokens to the text, and ends the request where a stop string is complete."""
        output = self._texts[request.request_id]
        text: str = ""
        tokens: tuple[TokenRecord, ...] = ()
        if drawn:
            request.last_token_s = now_s
            if request.first_token_s is None:
                request.first_token_s = now_s
        for index, sampled in enumerate(drawn):
            self.counters.output_tokens += 1
            num_left = len(drawn) - 1 - index
            if num_left == 0 and request.finish_reason == "stop":  # an end token is no part of the text
                break
            more_text, more_tokens = output.feed(sampled)
            text, tokens = text + more_text, tokens + more_tokens
            if output.stopped_by is not None:
                del request.token_ids[len(request.token_ids) - num_left :]  # drawn beyond the end
                break
        if request.finish_reason is not None and output.stopped_by is None:
            tail, tail_tokens = output.finish()
            text, tokens = text + tail, tokens + tail_tokens
        if output.stopped_by is not None:
            self.scheduler.finish(request, "stop", output.stopped_by)
        return text, tokens

    def _prompt_tokens(self, request: Request) -> tuple[TokenRecord, ...]:
        """With the first chunk, which comes with the first token even if its text is held back."""
        if request.prompt_top is None or request.num_output > 1 or request.finish_reason == "abort":
            return ()
        prompt_ids = request.token_ids[: request.num_prompt]
        return prompt_records(prompt_ids, request.prompt_logprobs, self._vocabulary)

    def _last_chunk(self, request: Request, text: str, tokens: tuple[TokenRecord, ...]) -> Chunk:
        self._forget(request)
        if request.finish_reason == "stop":
            self.counters.stopped += 1
        elif request.finish_reason == "length":
            self.counters.reached_length += 1
        else:
            self.counters.aborted += 1
        return Chunk(
            text=text,
            tokens=tokens,
            prompt_tokens=self._prompt_tokens(request),
            finish_reason=request.finish_reason,
            stop_reason=request.stop_reason,
            timing=_timing(request, perf_counter()),
        )

    def _not_finite(self, request: Request) -> Output:
        self._forget(request)
        self.counters.failed += 1
        error = InvalidModel(
            f"the model's output was not finite (NaN or infinite) at token {request.num_total}; "
            "its weights are damaged or overflow: check the checkpoint, or load it with --weights bf16"
        )
        return Output(request.request_id, error=error)

    def _forget(self, request: Request) -> None:
        del self._texts[request.request_id]
        self._runner.remove(request.request_id)

    def _count(self, step: Step, result: StepResult, run_s: float) -> int:
        """Returns the rows of the step."""
        counters = self.counters
        counters.steps += 1
        counters.sequences += len(step.sequences)
        counters.steps_by_batch[_batch_bucket(len(step.sequences))] += 1
        num_rows = step.num_tokens
        counters.step_tokens += num_rows
        counters.run_s += run_s
        if self.scheduler.is_timed and num_rows > len(step.sequences):
            counters.drafted += num_rows - len(step.sequences)
            counters.accepted += sum(len(outcome.drawn) - 1 for outcome in result.sequences if outcome.drawn)
        return num_rows


def _make_speculator(config: EngineConfig) -> Speculator | None:
    if config.speculation == "off":
        return None
    return Speculator(
        max_draft=config.max_draft,
        share=config.share_drafts,
        least_step_s=AUTO_STEP_S if config.speculation == "auto" else 0.0,
    )


def _shown_speculation(config: EngineConfig) -> str:
    if config.speculation == "off":
        return "off"
    shared = ", shared between requests" if config.share_drafts else ""
    return f"{config.speculation}, up to {config.max_draft} tokens a request and step{shared}"


def _batch_bucket(num_requests: int) -> int:
    """The exponent of the least power of two that is not below `num_requests`."""
    return (num_requests - 1).bit_length()


def _timing(request: Request, now_s: float) -> Timing:
    admitted_s = now_s if request.admitted_s is None else request.admitted_s
    first_s = request.first_token_s
    last_s = request.last_token_s
    return Timing(
        num_prompt=request.num_prompt,
        num_output=request.num_output,
        num_preempted=request.num_preempted,
        queue_s=admitted_s - request.arrived_s,
        prefill_s=(now_s if first_s is None else first_s) - admitted_s,
        decode_s=0.0 if first_s is None or last_s is None else last_s - first_s,
        ttft_s=0.0 if first_s is None else first_s - request.arrived_s,
        total_s=now_s - request.arrived_s,
    )
