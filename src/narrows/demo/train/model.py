"""The Llama decoder in plain torch, for training only: no KV cache, no generation loop.

Inputs: token ids [rows, tokens]; outputs: logits, or the mean cross-entropy when targets are given.
Parameter names are those of Hugging Face's Llama, so the export is a copy. Does not know files or tokenizers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrows.demo.train.config import ModelShape


def rope_tables(shape: ModelShape) -> tuple[Tensor, Tensor]:
    """Cosine and sine [positions, head_dim] in the rotate-half layout Hugging Face uses."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(shape.max_positions, dtype=torch.float32), shape.rope_theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def apply_rope(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [rows, heads, tokens, head_dim] by position."""
    low, high = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-high, low), dim=-1) * sin


class RmsNorm(nn.Module):
    """Root-mean-square norm with a learned scale, computed in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        normed: Tensor = (wide * scale * self.weight).to(hidden.dtype)
        return normed


class Attention(nn.Module):
    """Causal grouped-query attention over whole rows."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.num_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, shape.num_kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.num_heads * shape.head_dim, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, tokens, _ = hidden.shape
        query = self.q_proj(hidden).view(rows, tokens, self.num_heads, self.head_dim).transpose(1, 2)
        key = self.k_proj(hidden).view(rows, tokens, self.num_kv_heads, self.head_dim).transpose(1, 2)
        value = self.v_proj(hidden).view(rows, tokens, self.num_kv_heads, self.head_dim).transpose(1, 2)
        repeat = self.num_heads // self.num_kv_heads
        query = apply_rope(query, cos, sin)
        key = apply_rope(key, cos, sin).repeat_interleave(repeat, dim=1)
        value = value.repeat_interleave(repeat, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, tokens, -1))
        return projected


class GatedMlp(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        down: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return down


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = GatedMlp(shape)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output


class StoryModel(nn.Module):
    """The whole decoder; the output head is the embedding table."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        cos, sin = rope_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        # Zero output projections make every block start as the identity; the rates can be high at once.
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                std = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=std)

    def forward(self, token_ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits [rows, tokens, vocab], or the mean loss over `targets` (-100 is ignored)."""
        tokens = token_ids.shape[1]
        hidden = self.embed_tokens(token_ids)
        # Autocast leaves embeddings alone; a bf16 residual stream halves the memory traffic of every block.
        dtype = torch.get_autocast_dtype(hidden.device.type)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(dtype)
        cos, sin = self.cos[:tokens].to(hidden.dtype), self.sin[:tokens].to(hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, cos, sin)
        logits = F.linear(self.norm(hidden), self.embed_tokens.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)
