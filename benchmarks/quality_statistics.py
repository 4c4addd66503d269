"""How far one model's next-token distributions are from another's, in the statistics of llama.cpp's
perplexity tool.

In: log-probabilities of the same text from the checkpoint's own weights and from others. Out: Quality. The
evaluator is the torch oracle for all formats alike, so that only the weights differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from narrows.models.checkpoint import Checkpoint, Floats
from narrows.models.reference import ReferenceModel
from narrows.models.spec import TensorSlice, TransformerSpec


@dataclass(frozen=True, slots=True)
class Quality:
    """KL divergences in nats over all positions."""

    mean: float
    median: float
    p99: float
    p999: float
    max: float
    same_top: float  # share of positions whose best token is the same
    perplexity_ratio: float


class Replaced:
    """A checkpoint some of whose tensors hold other values; what a ReferenceModel reads of one."""

    def __init__(self, checkpoint: Checkpoint, values: Mapping[str, Floats]) -> None:
        self._checkpoint = checkpoint
        self._values = values

    def floats(self, name: str) -> Floats:
        found = self._values.get(name)
        return self._checkpoint.floats(name) if found is None else found

    def take(self, part: TensorSlice) -> Floats:
        return take(self.floats(part.name), part)


def take(array: Floats, part: TensorSlice) -> Floats:
    """The rows that a slice describes, as Checkpoint.take reads them."""
    array = array.T if part.transpose else array
    array = array if part.rows is None else array[np.asarray(part.rows)]
    return np.ascontiguousarray(array[part.row_begin : part.row_end])


def log_probabilities(
    spec: TransformerSpec, checkpoint: Replaced, windows: Sequence[list[int]]
) -> list[torch.Tensor]:
    """Of every position of every window: [tokens, vocab]."""
    model = ReferenceModel(spec, checkpoint)  # type: ignore[arg-type]  reads floats and take only
    return [torch.log_softmax(model.logits(ids), dim=-1) for ids in windows]


def compare(
    exact: Sequence[torch.Tensor], other: Sequence[torch.Tensor], windows: Sequence[list[int]]
) -> Quality:
    """Over every position; perplexity over every token that follows one."""
    divergence = np.concatenate(
        [((p.exp() * (p - q)).sum(dim=-1)).numpy() for p, q in zip(exact, other, strict=True)]
    )
    same = np.concatenate([(p.argmax(-1) == q.argmax(-1)).numpy() for p, q in zip(exact, other, strict=True)])
    follows = [torch.tensor(ids[1:])[:, None] for ids in windows]
    losses = [
        -float(
            torch.cat([p[:-1].gather(1, ids) for p, ids in zip(rows, follows, strict=True)]).double().mean()
        )
        for rows in (exact, other)
    ]
    tail = (float(np.quantile(divergence, q)) for q in (0.5, 0.99, 0.999, 1.0))
    return Quality(float(divergence.mean()), *tail, float(same.mean()), float(np.exp(losses[1] - losses[0])))
