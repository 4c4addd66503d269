"""The seam between the engine and whatever computes: one Step in, one StepResult out.

A step runs `num_tokens` tokens of each listed request: prefill chunks and decode rows are the same thing.
Knows nothing of tensors, tokenizers or HTTP. Implemented by runners/cpu.py and, for tests, engine/fake.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn. Ranges are checked by `engine.request.validate_sampling`."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # (0, 1]
    min_p: float = 0.0  # [0, 1]
    repetition_penalty: float = 1.0  # > 0; over prompt and output
    presence_penalty: float = 0.0  # [-2, 2]; over output
    frequency_penalty: float = 0.0  # [-2, 2]; over output
    seed: int = 0  # unsigned 64 bits; the engine draws one where the caller gives none
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None  # None: no logprobs; n >= 0: the chosen token's and the n best
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()  # end tokens; may not come before min_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with the natural log of its probability under the unmodified model."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token drawn after a row of a request. `token_id` is -1 where the logits were not finite."""

    token_id: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """Tokens of one request to run: positions [start, start + len(token_ids)).

    The last `num_draft` tokens are guesses (speculation). The runner draws after the row before them; where
    the token drawn is the first guess it draws after that guess's row too, and so on up to the first
    difference. Every draw reads the logits, the seed's place and the counts of penalties that a step of one
    token would have read, so a request's tokens are == with and without guesses, greedy or sampled: there is
    nothing to reject and no distribution to mend. The keys of guesses that were wrong are overwritten later.
    """

    request_id: int
    token_ids: tuple[int, ...]
    start: int  # tokens of this request already in its KV blocks
    block_ids: tuple[int, ...]  # covers start + len(token_ids) tokens
    sample: bool  # draw a token after the last row, or the last before the guesses
    targets: tuple[int, ...] = ()  # prompt logprobs: the token each row should predict, -1 for none
    target_top: int = 0
    num_draft: int = 0  # below len(token_ids); only where `sample`


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """What one SequenceStep gave; `targets[i]` is (logprob of the target, n best) of row i, or None."""

    request_id: int
    drawn: tuple[Sampled, ...] = ()  # where `sample`: 1 to num_draft + 1 tokens, only the last may be -1
    targets: tuple[tuple[TokenLogprob, tuple[TokenLogprob, ...]] | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    sequences: tuple[SequenceStep, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence.token_ids) for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class StepResult:
    """One SequenceResult per SequenceStep, in the same order."""

    sequences: tuple[SequenceResult, ...]


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What the engine must know of a runner."""

    vocab_size: int
    max_context: int  # tokens of one sequence, prompt and output together
    block_size: int  # tokens in a KV block
    num_blocks: int
    max_step_tokens: int
    weight_bytes_per_step: int  # bytes of weights that one step reads
    kv_bytes_per_token: int
    description: dict[str, str] = field(default_factory=dict)  # for humans: weights, threads, isa, ...


class Runner(Protocol):
    """Runs steps. Not thread-safe: one engine thread owns it."""

    @property
    def info(self) -> RunnerInfo: ...

    def add(self, request_id: int, params: SamplingParams, prompt_ids: tuple[int, ...]) -> None:
        """Makes the sampling state of a request, before its first step."""

    def run(self, step: Step) -> StepResult:
        """Runs one step and records sampled tokens in the sampling states. InternalError on a broken step."""

    def remove(self, request_id: int) -> None:
        """Forgets a request's sampling state; unknown ids are ignored."""

    def close(self) -> None:
        """Frees threads and memory."""
