"""Runs steps on the CPU through the native core: the Runner of a Hugging Face model folder.

In: a model folder and CpuOptions. Out: CpuRunner, a `Runner` of engine/step.py; a step is one native call.
Loading maps or packs the weights and takes the KV pages. Knows no text, no HTTP and no scheduling.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from narrows import _core
from narrows.engine.step import (
    RunnerInfo,
    Sampled,
    SamplingParams,
    SequenceResult,
    SequenceStep,
    Step,
    StepResult,
    TokenLogprob,
)
from narrows.errors import InternalError
from narrows.kernels.formats import KV_BLOCK
from narrows.models.spec import TransformerSpec
from narrows.runners.loading import Loaded, load_model
from narrows.runners.options import CpuOptions
from narrows.runners.weights import Progress

Floats = npt.NDArray[np.float32]
CoreOutput = tuple[
    list[tuple[int, float, list[tuple[int, float]]]], list[tuple[float, list[tuple[int, float]]]]
]


class CpuRunner:
    """Not thread-safe: one engine thread owns it. `load_times` holds the seconds of each phase of loading."""

    def __init__(self, loaded: Loaded) -> None:
        self._model = loaded.model
        self._pool = loaded.pool  # the transformer's threads; kept alive here
        self._kv = loaded.kv
        self._transformer = loaded.transformer
        # (sampler, whether logprobs are wanted, tokens of the prompt)
        self._states: dict[int, tuple[_core.Sampler, bool, int]] = {}
        self.spec: TransformerSpec = loaded.spec
        self.load_times: dict[str, float] = dict(loaded.times)
        self._info = RunnerInfo(
            vocab_size=loaded.spec.vocab,
            max_context=loaded.max_context,
            block_size=KV_BLOCK,
            num_blocks=loaded.kv.num_blocks,
            max_step_tokens=loaded.transformer.max_step_tokens,
            weight_bytes_per_step=loaded.transformer.weight_bytes_per_step,
            kv_bytes_per_token=_core.KvPages.block_bytes(loaded.model) // KV_BLOCK,
            description=loaded.description,
        )

    @classmethod
    def from_folder(
        cls, folder: Path, options: CpuOptions | None = None, *, progress: Progress | None = None
    ) -> CpuRunner:
        """Opens, packs or maps a model; `progress(done, total)` is called after each packed tensor."""
        return cls(load_model(folder, options or CpuOptions(), progress=progress))

    @property
    def info(self) -> RunnerInfo:
        return self._info

    def add(self, request_id: int, params: SamplingParams, prompt_ids: tuple[int, ...]) -> None:
        """Makes the sampling state of a request."""
        sampler = _core.Sampler(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            seed=params.seed,
            logit_bias=params.logit_bias,
            top_logprobs=-1 if params.top_logprobs is None else params.top_logprobs,
            min_tokens=params.min_tokens,
            stop_token_ids=params.stop_token_ids,
            prompt_ids=prompt_ids
            if params.repetition_penalty != 1.0
            else (),  # only this penalty looks at them
        )
        self._states[request_id] = (sampler, params.top_logprobs is not None, len(prompt_ids))

    def run(self, step: Step) -> StepResult:
        """Runs one step; sampled tokens are recorded in the sampling states."""
        states = self._states
        try:
            inputs = [
                (
                    sequence.token_ids,
                    sequence.start,
                    sequence.block_ids,
                    states[sequence.request_id][0] if sequence.sample else None,
                    sequence.targets,
                    sequence.target_top,
                    states[sequence.request_id][2],
                    sequence.num_draft,
                )
                for sequence in step.sequences
            ]
            outputs = self._transformer.step(self._kv, inputs)
        except (KeyError, ValueError, TypeError) as error:
            raise InternalError(f"the native core refused a step: {error!r}") from error
        pairs = zip(step.sequences, outputs, strict=True)
        return StepResult(tuple([self._result(sequence, output) for sequence, output in pairs]))

    def remove(self, request_id: int) -> None:
        """Forgets a request's sampling state; unknown ids are ignored."""
        self._states.pop(request_id, None)

    def close(self) -> None:
        """Frees threads and memory; the runner cannot be used afterwards."""
        self._states.clear()
        for name in ("_transformer", "_kv", "_model", "_pool"):
            self.__dict__.pop(name, None)

    def logits(self, token_ids: list[int]) -> Floats:
        """Logits of every position of one text [tokens, vocab], in KV pages of its own."""
        blocks = range(-(-len(token_ids) // KV_BLOCK))
        pages = _core.KvPages(self._model, len(blocks))
        chunk = self._transformer.max_step_tokens
        parts = [
            self._transformer.step_logits(
                pages, [(token_ids[i : i + chunk], i, list(blocks), None, (), 0, len(token_ids), 0)]
            )
            for i in range(0, len(token_ids), chunk)
        ]
        return np.concatenate(parts)

    def op_times(self) -> dict[str, float]:
        """Seconds per group of operators since the last call."""
        return self._transformer.op_times()

    def _result(self, sequence: SequenceStep, output: CoreOutput) -> SequenceResult:
        tokens, targets = output
        if tokens and self._states[sequence.request_id][1]:
            drawn = tuple([_with_logprob(*token) for token in tokens])
        else:
            drawn = tuple([Sampled(token[0]) for token in tokens])
        if not targets:
            return SequenceResult(sequence.request_id, drawn)
        rows = zip(sequence.targets, targets, strict=True)
        return SequenceResult(sequence.request_id, drawn, tuple([_target(*row) for row in rows]))


def _with_logprob(token_id: int, logprob: float, top: list[tuple[int, float]]) -> Sampled:
    if token_id < 0:
        return Sampled(token_id)
    return Sampled(token_id, logprob, tuple([TokenLogprob(*item) for item in top]))


def _target(
    target: int, found: tuple[float, list[tuple[int, float]]]
) -> tuple[TokenLogprob, tuple[TokenLogprob, ...]] | None:
    if target < 0:
        return None
    logprob, top = found
    return TokenLogprob(target, logprob), tuple([TokenLogprob(*item) for item in top])
