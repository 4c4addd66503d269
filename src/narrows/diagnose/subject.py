"""The model under diagnosis: a checkpoint, or only its config.json, as a spec and the formats it could have.

In: a folder, a hub id, a config.json, or nothing (the embedded model). Out: Subject. An architecture that
Narrows does not know is counted as a plain decoder where its config has the fields of one, and said to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from narrows.errors import InvalidModel, UnsupportedModel
from narrows.models.checkpoint import INDEX_NAME, Checkpoint, open_checkpoint
from narrows.models.config import REFUSED_FEATURES, ModelConfig, read_config, read_json
from narrows.models.families import FAMILIES, build_spec
from narrows.models.families.blocks import Tensors
from narrows.models.families.outline import Outline
from narrows.models.resolve import resolve_model
from narrows.models.sizes import KvKinds
from narrows.models.spec import NormSpec, TransformerSpec
from narrows.runners.attention import checkpoint_norms, plan_attention
from narrows.runners.options import CpuOptions
from narrows.runners.plan import Recipe, resolve_recipe

EMBEDDED_NAME: Final = "the embedded model"
PLAIN_FAMILY: Final = "llama"  # what an unknown decoder is counted as
PLAIN_FIELDS: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "tie_word_embeddings",
    "dtype",
    "torch_dtype",
)
NO_WEIGHTS: Final = (
    "the weights: nothing was run, all times are predicted",
    "layers of other widths than the config says (a pruned model)",
    "the tokenizer's and the engine's time",
)
_ITEM_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Subject:
    """`folder` None: only a config. `given`: what `narrows serve` would take; None: the embedded one."""

    name: str
    given: str | None
    folder: Path | None
    spec: TransformerSpec
    tensors: Tensors
    missing: tuple[str, ...] = ()
    is_known: bool = True  # Narrows runs this architecture

    def recipe(self, options: CpuOptions) -> Recipe:
        """The formats that these options would give."""
        return resolve_recipe(options.weights, options.group, options.head, self.spec, self.tensors)

    def attention(self, options: CpuOptions, recipe: Recipe) -> tuple[KvKinds, bool]:
        """(how layers would keep keys and values, whether most prompts would attend in integers).

        Of a bare config only the biases are known; the norms over keys are taken to be even.
        """
        norms = checkpoint_norms(self.tensors) if isinstance(self.tensors, Checkpoint) else _even
        layers, _ = plan_attention(self.spec, recipe.weights, norms, options)
        in_integers = sum(layer.int8_prompts for layer in layers)
        kinds = tuple(layer.kv for layer in layers)
        return (kinds[0] if len(set(kinds)) == 1 else kinds), 2 * in_integers >= len(layers)

    @property
    def embedding_item_bytes(self) -> int:
        return _ITEM_BYTES.get(self.tensors.dtype(self.spec.embedding), 4)

    @property
    def checkpoint_bytes(self) -> int | None:
        return self.tensors.num_bytes if isinstance(self.tensors, Checkpoint) else None


def _even(norm: NormSpec) -> npt.NDArray[np.float32]:
    return np.ones(1, dtype=np.float32)


def open_subject(
    model: str | None, *, config_only: bool = False, max_context: int | None = None, offline: bool = False
) -> Subject:
    """Raises InvalidModel naming the field or file that is missing; UnsupportedModel by feature."""
    path = None if model is None else Path(model).expanduser()
    if path is not None and path.is_file():
        if path.suffix != ".json":
            raise InvalidModel(f"{path} is a file; give a model folder or its config.json")
        return _from_config(
            ModelConfig(read_json(path), source=str(path)), path.parent.name, str(path.parent), max_context
        )
    if config_only and path is not None and not path.is_dir():
        raise InvalidModel(
            f"{path} does not exist; --config-only takes a folder or a config.json "
            f"(hf download {model} config.json fetches one)"
        )
    folder = resolve_model(model, offline=offline)
    name = EMBEDDED_NAME if model is None else folder.resolve().name
    config = read_config(folder)
    if config_only or not _has_weights(folder):
        return _from_config(config, name, model, max_context)
    try:
        checkpoint = open_checkpoint(folder)
        spec = build_spec(config, checkpoint, max_context=max_context)
    except UnsupportedModel:
        return _from_config(config, name, model, max_context)
    return Subject(name, model, folder, spec, checkpoint)


def _has_weights(folder: Path) -> bool:
    return (folder / INDEX_NAME).exists() or any(folder.glob("*.safetensors"))


def _from_config(config: ModelConfig, name: str, given: str | None, max_context: int | None) -> Subject:
    values, missing, is_known = _plain_values(config)
    known = replace(config, values=values)
    outline = Outline(known)
    spec = build_spec(known, outline, max_context=max_context)
    return Subject(name, given, None, spec, outline, (*missing, *NO_WEIGHTS), is_known)


def _plain_values(config: ModelConfig) -> tuple[Mapping[str, Any], tuple[str, ...], bool]:
    """(values of a family that is known, what that leaves open, whether Narrows would run it)."""
    values: dict[str, Any] = dict(config.values)
    notes: list[str] = []
    is_known = True
    for key in ("text_config", "llm_config"):
        inner = values.get(key)
        if isinstance(inner, dict):
            values = {**inner}
            is_known = False
            notes.append(f"everything beside its {key}: only the language model is counted")
    for key in ("quantization_config", "compression_config"):
        if values.pop(key, None):
            is_known = False
            notes.append(f"the {key}: counted as if its weights were not quantized")
    present = [key for key in REFUSED_FEATURES if values.get(key) not in (None, False, 0, {}, [])]
    if present:
        raise UnsupportedModel(
            f"{config.source}: {', '.join(present)} is set, whose costs Narrows does not count; "
            f"a dense decoder with the fields of {', '.join(FAMILIES)} can be told of"
        )
    family = values.get("model_type")
    if family not in FAMILIES:
        notes.append(
            f"the architecture {family!r}: counted as a {PLAIN_FAMILY} of the same sizes, which Narrows "
            "could not run"
        )
        values = {key: values[key] for key in PLAIN_FIELDS if key in values}
        values, is_known = {"rms_norm_eps": 1e-6, **values, "model_type": PLAIN_FAMILY}, False
    return values, tuple(notes), is_known
