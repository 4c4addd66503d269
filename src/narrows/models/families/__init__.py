"""Which model families run: config.json's model_type -> builder of a TransformerSpec.

In: a ModelConfig and a checkpoint's shapes. Out: the spec, after checking that nothing of the config or of
the checkpoint is left over: what a family does not read, it does not understand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from narrows.errors import UnsupportedModel
from narrows.models.config import ModelConfig, refuse_features
from narrows.models.families import gemma, gpt2, gpt_neo, gpt_neox, llama, mistral, phi3, qwen
from narrows.models.families.blocks import Tensors
from narrows.models.spec import LinearSpec, TransformerSpec

Builder = Callable[[ModelConfig, Tensors, int | None], TransformerSpec]


@dataclass(frozen=True, slots=True)
class Family:
    architecture: str  # the class name in config.json's `architectures`
    build: Builder


FAMILIES: Final[dict[str, Family]] = {
    "gemma": Family("GemmaForCausalLM", gemma.build_gemma),
    "gemma2": Family("Gemma2ForCausalLM", gemma.build_gemma2),
    "gemma3_text": Family("Gemma3ForCausalLM", gemma.build_gemma3),
    "gpt2": Family("GPT2LMHeadModel", gpt2.build),
    "gpt_neo": Family("GPTNeoForCausalLM", gpt_neo.build),
    "gpt_neox": Family("GPTNeoXForCausalLM", gpt_neox.build),
    "llama": Family("LlamaForCausalLM", llama.build),
    "mistral": Family("MistralForCausalLM", mistral.build),
    "phi3": Family("Phi3ForCausalLM", phi3.build),
    "qwen2": Family("Qwen2ForCausalLM", qwen.build_qwen2),
    "qwen3": Family("Qwen3ForCausalLM", qwen.build_qwen3),
}

# Buffers that old checkpoints carry and that are recomputed: rotary tables and causal masks.
_BUFFERS: Final = re.compile(r"\.(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias)$")


def build_spec(config: ModelConfig, tensors: Tensors, *, max_context: int | None = None) -> TransformerSpec:
    """The spec of a checkpoint. `max_context` only matters where rope frequencies depend on it (LongRoPE)."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedModel(
            f"{config.source}: model_type {config.model_type!r} is not supported; "
            f"supported: {', '.join(FAMILIES)}"
        )
    if config.architectures and family.architecture not in config.architectures:
        raise UnsupportedModel(
            f"{config.source}: architecture {config.architectures[0]} does not generate text the way "
            f"Narrows runs it; supported: {', '.join(known.architecture for known in FAMILIES.values())}"
        )
    refuse_features(config)
    spec = family.build(config, tensors, max_context)
    _refuse_unused(config, tensors, spec)
    return spec


def tensor_names(spec: TransformerSpec) -> Iterator[str]:
    """Every checkpoint tensor a spec reads, with repeats."""
    yield spec.embedding
    if spec.position_embedding is not None:
        yield spec.position_embedding
    norms = [spec.final_norm]
    linears: list[LinearSpec] = [spec.head] if spec.head is not None else []
    for layer in spec.layers:
        norms += [
            layer.norm_attn,
            layer.norm_mlp,
            layer.post_attn,
            layer.post_mlp,
            layer.q_norm,
            layer.k_norm,
        ]
        linears += [layer.qkv, layer.out, layer.up, layer.down]
    for norm in norms:
        if norm is not None:
            yield norm.weight
            if norm.bias is not None:
                yield norm.bias
    for linear in linears:
        yield from (part.name for part in linear.weights + linear.biases)


def _refuse_unused(config: ModelConfig, tensors: Tensors, spec: TransformerSpec) -> None:
    used = set(tensor_names(spec))
    if spec.head is None:  # tied: a stored head is a copy of the embedding, compared when the frame was read
        used |= {"lm_head.weight", "embed_out.weight"}
    unused = sorted(name for name in tensors if name not in used and not _BUFFERS.search(name))
    if unused:
        raise UnsupportedModel(
            f"{config.source}: {len(unused)} tensors have no place in {config.model_type} with this config, "
            f"such as {unused[0]!r}; the config lacks a setting or the model has parts that Narrows does "
            f"not run"
        )
