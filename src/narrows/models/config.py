"""config.json as a mapping with checked reads.

In: a model folder. Out: ModelConfig, whose typed getters raise InvalidModel naming the key, the value and
what was expected. Knows the file's quirks across transformers versions, but no family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from narrows.errors import InvalidModel, UnsupportedModel

# Features that change what the tensors mean. Present and switched on, they are refused by name: a model that
# runs but computes something else is worse than one that does not start.
REFUSED_FEATURES: Final = (
    "quantization_config",
    "compression_config",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_intermediate_size",
    "kv_lora_rank",
    "q_lora_rank",
    "is_encoder_decoder",
    "add_cross_attention",
    "use_bidirectional_attention",
    "attention_sinks",
    "text_config",
    "vision_config",
    "audio_config",
    "alibi",
)
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Values of config.json with checked access; `source` is named in errors."""

    values: Mapping[str, Any]
    source: str = "config.json"

    @property
    def model_type(self) -> str:
        return self.text("model_type")

    @property
    def architectures(self) -> tuple[str, ...]:
        names = self.values.get("architectures") or ()
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise InvalidModel(f"{self.source}: architectures is {names!r}; it must be a list of class names")
        return tuple(names)

    def has(self, name: str) -> bool:
        """Present and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        """A whole number of at least `minimum`; `default` stands in for a missing or null value."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InvalidModel(f"{self.source}: {name} is {value!r}; it must be a whole number >= {minimum}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above zero."""
        return self.positive(name, self._value(name, default))

    def optional_number(self, name: str, default: float | None = None) -> float:
        """A finite number above zero; 0.0 where the key is null, `default` where it is missing."""
        value = self.values.get(name, default)
        return 0.0 if value is None else self.positive(name, value)

    def positive(self, name: str, value: object) -> float:
        """Checks a value read elsewhere, such as inside rope_parameters."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1e30:
            raise InvalidModel(f"{self.source}: {name} is {value!r}; it must be a number above 0")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise InvalidModel(f"{self.source}: {name} is {value!r}; it must be true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise InvalidModel(f"{self.source}: {name} is {value!r}; it must be a string")
        return value

    def names(self, name: str, length: int) -> tuple[str, ...] | None:
        """A list of `length` strings, one per layer, or None where the key is missing or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidModel(f"{self.source}: {name} is {value!r}; it must be a list of strings")
        if len(value) != length:
            raise InvalidModel(f"{self.source}: {name} lists {len(value)} layers but the model has {length}")
        return tuple(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InvalidModel(f"{self.source}: {name} is {value!r}; it must be an object")
        return value

    def _value(self, name: str, default: object) -> object:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is None:
            raise InvalidModel(f"{self.source} has no {name}; take config.json from the model's own folder")
        return default


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; InvalidModel where it is missing, damaged or something else."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InvalidModel(
            f"{path} is missing; the folder must hold config.json, *.safetensors and tokenizer.json"
        ) from error
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidModel(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise InvalidModel(f"{path} holds a {type(value).__name__}, not a JSON object; download it again")
    return value


def read_config(folder: Path) -> ModelConfig:
    """config.json of a model folder."""
    return ModelConfig(read_json(folder / "config.json"), source=str(folder / "config.json"))


def refuse_features(config: ModelConfig) -> None:
    """Raises UnsupportedModel for a feature that is switched on and that no family here runs."""
    for name in REFUSED_FEATURES:
        value = config.values.get(name)
        if value not in (None, False, 0, {}, []):
            hint = ""
            if name in ("quantization_config", "compression_config"):
                hint = "; open the unquantized checkpoint and choose q8 or q4 when loading"
            raise UnsupportedModel(f"{config.source}: {name} is set, which Narrows does not run{hint}")
