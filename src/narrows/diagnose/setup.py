"""A model as it is run: its spec, formats, threads and workload; and the steps that such a run is made of.

In: a spec and choices. Out: the operators of its loads (a prompt, a decode step, a step that mixes both) and
the bytes it holds. Pure arithmetic over models/costs.py; measures nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from narrows.kernels.formats import KV_BLOCK
from narrows.models import costs
from narrows.models.sizes import KvKinds, WeightBytes, kv_bytes_per_token, weight_bytes
from narrows.models.spec import TransformerSpec
from narrows.runners.plan import Recipe

Load = Literal["prefill", "decode", "mixed"]
LOADS: Final[tuple[Load, ...]] = ("prefill", "decode", "mixed")
Step = tuple[costs.Chunk, ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a prediction needs to know of a run."""

    spec: TransformerSpec
    recipe: Recipe
    threads: int
    streams: int
    prompt: int  # tokens, the workload's median
    output: int
    chunk: int  # prompt tokens in a step that also carries answers
    step_tokens: int = 512  # in a step of a prompt alone
    int8_attention: bool = False  # of prompts
    kv: KvKinds = "f16"  # how keys and values are kept: of all layers, or of each
    embedding_item_bytes: int = 2
    guesses: int = 0  # tokens verified beside each next one

    @property
    def context(self) -> int:
        """Tokens in the pages in the middle of an answer."""
        return self.prompt + self.output // 2

    @property
    def prompt_steps(self) -> int:
        """Steps in which a prompt is read: in chunks where other streams run beside it."""
        return -(-self.prompt // (self.chunk if self.streams > 1 else self.step_tokens))

    @property
    def weights(self) -> WeightBytes:
        return weight_bytes(self.spec, self.recipe, embedding_item_bytes=self.embedding_item_bytes)

    @property
    def kv_bytes_per_token(self) -> int:
        return kv_bytes_per_token(self.spec, kv=self.kv)

    @property
    def memory_bytes(self) -> int:
        """Packed weights, the rows of an untied embedding, the pages of every stream at its longest."""
        found = self.weights
        tokens = self.streams * -(-(self.prompt + self.output) // KV_BLOCK) * KV_BLOCK
        return found.packed + found.embedding_rows + tokens * self.kv_bytes_per_token


def steps_of(setup: Setup, load: Load) -> tuple[Step, ...]:
    """The steps of one unit: a whole prompt alone, a token of every stream, a chunk beside the others."""
    if load == "prefill":
        return tuple(costs.prefill(setup.prompt, max_step_tokens=setup.step_tokens))
    if load == "decode":
        rows = 1 + setup.guesses
        return ((costs.Chunk(rows, setup.context, rows),) * setup.streams,)
    others = max(1, setup.streams - 1)
    size = max(1, min(setup.chunk, setup.prompt, setup.step_tokens - others))
    start = (setup.prompt - size) // 2  # the mean context of the prompt's chunks
    chunk = costs.Chunk(size, start, 0, in_prompt=True)
    return ((chunk, *costs.decode(others, setup.context)),)


@lru_cache(maxsize=512)
def operators(setup: Setup, load: Load) -> tuple[tuple[costs.OpCost, int], ...]:
    """The operators of one unit, equal ones once with their number."""
    found: Counter[costs.OpCost] = Counter()
    for step in steps_of(setup, load):
        found.update(
            costs.step_costs(
                setup.spec,
                setup.recipe,
                step,
                kv=setup.kv,
                int8_attention=setup.int8_attention,
            )
        )
    return tuple(found.items())


def read_bytes(setup: Setup, load: Load) -> int:
    """What the load's last step reads: what decides whether a cache holds it."""
    unit = steps_of(setup, load)
    return sum(count * op.read_bytes for op, count in operators(setup, load)) // len(unit)


def parameters(spec: TransformerSpec) -> int:
    """Weights of the matrices, the embedding once where it is tied."""
    layers = sum(
        spec.hidden * (2 * layer.heads + 2 * layer.kv_heads) * layer.head_dim
        + (3 if layer.gated else 2) * spec.hidden * layer.intermediate
        for layer in spec.layers
    )
    return layers + spec.vocab * spec.hidden * (1 if spec.head is None else 2)
