"""The transformer of a spec in plain torch: the oracle the native core and the families are tested against.

In: TransformerSpec, checkpoint. Out: logits in float32. No KV cache, no batching, one line per idea: slow and
clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from narrows.models.checkpoint import widen
from narrows.models.spec import Activation, LayerSpec, LinearSpec, NormSpec, TransformerSpec

if TYPE_CHECKING:
    from narrows.models.checkpoint import Checkpoint


class ReferenceModel:
    """Holds every tensor in float32."""

    def __init__(self, spec: TransformerSpec, checkpoint: Checkpoint) -> None:
        self.spec = spec
        self._checkpoint = checkpoint
        self._matrices: dict[LinearSpec, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._vectors: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Logits of every position, [tokens, vocab]."""
        spec = self.spec
        ids = torch.tensor(token_ids)
        x = self._tensor(spec.embedding)[ids] * spec.embedding_scale  # [tokens, hidden]
        if spec.position_embedding is not None:
            x = x + self._tensor(spec.position_embedding)[: len(ids)]
        for layer in spec.layers:
            x = self._layer(layer, x)
        x = self._norm(spec.final_norm, x)
        logits = x @ self._tensor(spec.embedding).T if spec.head is None else self._linear(spec.head, x)
        return _softcap(logits, spec.final_softcap)

    def greedy(self, token_ids: Sequence[int], num_tokens: int) -> list[int]:
        """The `num_tokens` most likely next tokens, one after the other."""
        ids = list(token_ids)
        for _ in range(num_tokens):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[len(token_ids) :]

    def _layer(self, layer: LayerSpec, x: torch.Tensor) -> torch.Tensor:
        attended = self._norm(layer.post_attn, self._attention(layer, self._norm(layer.norm_attn, x)))
        if layer.parallel_residual:
            return x + attended + self._norm(layer.post_mlp, self._mlp(layer, self._norm(layer.norm_mlp, x)))
        x = x + attended
        return x + self._norm(layer.post_mlp, self._mlp(layer, self._norm(layer.norm_mlp, x)))

    def _attention(self, layer: LayerSpec, x: torch.Tensor) -> torch.Tensor:
        tokens, size = len(x), layer.head_dim
        split = [layer.heads * size, layer.kv_heads * size, layer.kv_heads * size]
        q, k, v = (
            part.view(tokens, -1, size) for part in torch.split(self._linear(layer.qkv, x), split, dim=-1)
        )
        q, k = (
            self._rope(layer, self._norm(layer.q_norm, q, rms=True)),
            self._rope(layer, self._norm(layer.k_norm, k, rms=True)),
        )
        group = layer.heads // layer.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * layer.attention_scale
        scores = _softcap(scores, layer.attention_softcap)
        position = torch.arange(tokens)
        distance = position[:, None] - position[None, :]
        hidden = (distance < 0) | (distance >= (layer.window or tokens))
        weights = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        return self._linear(layer.out, torch.einsum("hqk,khd->qhd", weights, v).reshape(tokens, -1))

    def _rope(self, layer: LayerSpec, heads: torch.Tensor) -> torch.Tensor:
        """Rotates pairs (i, i + half) of the first 2 * half entries of [tokens, heads, head_dim]."""
        if layer.rope is None:
            return heads
        rope = self.spec.ropes[layer.rope]
        angles = torch.arange(len(heads), dtype=torch.float32)[:, None] * torch.tensor(rope.inv_freq)
        cos, sin = (
            (angles.cos() * rope.attention_factor)[:, None],
            (angles.sin() * rope.attention_factor)[:, None],
        )
        half = len(rope.inv_freq)
        first, second, rest = torch.split(heads, [half, half, heads.shape[-1] - 2 * half], dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)

    def _mlp(self, layer: LayerSpec, x: torch.Tensor) -> torch.Tensor:
        up = self._linear(layer.up, x)
        if layer.gated:
            gate, up = torch.split(up, layer.intermediate, dim=-1)
            return self._linear(layer.down, _activate(layer.activation, gate) * up)
        return self._linear(layer.down, _activate(layer.activation, up))

    def _norm(self, norm: NormSpec | None, x: torch.Tensor, *, rms: bool = False) -> torch.Tensor:
        if norm is None:
            return x
        weight, eps = self._tensor(norm.weight) + float(norm.add_one), self.spec.norm_eps
        if rms or self.spec.norm == "rms":
            return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight
        bias = None if norm.bias is None else self._tensor(norm.bias)
        return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    def _linear(self, linear: LinearSpec, x: torch.Tensor) -> torch.Tensor:
        if linear not in self._matrices:
            take = self._checkpoint.take
            weights = np.concatenate([widen(take(part)) for part in linear.weights])
            biases = [widen(take(part)) for part in linear.biases]
            bias = torch.from_numpy(np.concatenate(biases)) if biases else None
            self._matrices[linear] = (torch.from_numpy(weights), bias)
        weight, bias = self._matrices[linear]
        return functional.linear(x, weight, bias)

    def _tensor(self, name: str) -> torch.Tensor:
        if name not in self._vectors:
            self._vectors[name] = torch.from_numpy(self._checkpoint.floats(name))
        return self._vectors[name]


def _softcap(x: torch.Tensor, cap: float) -> torch.Tensor:
    return cap * torch.tanh(x / cap) if cap > 0.0 else x


def _activate(kind: Activation, x: torch.Tensor) -> torch.Tensor:
    match kind:
        case "silu":
            return functional.silu(x)
        case "gelu_tanh":
            return functional.gelu(x, approximate="tanh")
        case "gelu_erf":
            return functional.gelu(x)
        case "relu":
            return functional.relu(x)
        case "relu2":
            return functional.relu(x).square()
