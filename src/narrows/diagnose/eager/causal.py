"""A language model as a user of transformers runs it: loaded in its own dtype, timed with its KV cache.

In: torch, transformers, a folder, a workload. Out: Service, and the Units of its two phases. Nothing is set
that a user would not have set: threads, attention and dtype are those that the libraries choose.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

from narrows.diagnose.eager.groups import SAMPLING_RANGE
from narrows.diagnose.eager.seen import Service, Threads, Unit
from narrows.errors import InvalidModel, OutOfMemory, UnsupportedHardware, UnsupportedModel
from narrows.models.config import ModelConfig
from narrows.runners.memory import available_bytes, shown_bytes

ENVIRONMENT: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_MAX_ACTIVE_LEVELS",
    "KMP_AFFINITY",
    "GOMP_CPU_AFFINITY",
)
WEIGHT_FILES: Final = ("*.safetensors", "pytorch_model*.bin")
ITEM_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "float8_e4m3fn": 1}
RISKY: Final = 0.8  # of the memory that is available


@dataclass(frozen=True, slots=True)
class Choice:
    """As asked for; "auto": the checkpoint's dtype, a GPU where there is one."""

    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False


def threads_of(torch: ModuleType) -> Threads:
    given = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return Threads(torch.get_num_threads(), torch.get_num_interop_threads(), given)


def device_of(torch: ModuleType, wanted: str) -> Literal["cpu", "cuda"]:
    has_gpu = bool(torch.cuda.is_available())
    if wanted == "cuda" and not has_gpu:
        raise UnsupportedHardware(
            f"--torch-device cuda: torch {torch.__version__} sees no GPU; is it a build for it, is the "
            "driver "
            "loaded? Leave the option out to time the CPU"
        )
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"


def check_config(config: ModelConfig, choice: Choice) -> None:
    """Refuses, before anything is loaded, what is no causal language model or would run a folder's code."""
    if config.values.get("auto_map") and not choice.trust_remote_code:
        raise UnsupportedModel(
            f"{config.source} asks to run Python of its own folder (auto_map), which is not done unasked; "
            "read "
            "that code, then say --trust-remote-code"
        )
    if config.values.get("is_encoder_decoder"):
        raise UnsupportedModel(
            f"{config.source} is an encoder with a decoder, no causal language model; time it as a module of "
            "yours: --torch-module PACKAGE.MODULE:FACTORY"
        )


def weight_bytes(folder: Path, config: ModelConfig, choice: Choice) -> int:
    """Bytes that the weights will take in memory; InvalidModel where there are none."""
    files = next(filter(None, (list(folder.glob(pattern)) for pattern in WEIGHT_FILES)), [])
    on_disk = sum(path.stat().st_size for path in files)
    if not on_disk:
        raise InvalidModel(f"{folder} holds no weights ({', '.join(WEIGHT_FILES)}); --torch runs the model")
    stored = str(config.values.get("dtype") or config.values.get("torch_dtype") or "float32")
    if choice.dtype == "auto" or stored not in ITEM_BYTES:
        return on_disk
    return on_disk * ITEM_BYTES[choice.dtype] // ITEM_BYTES[stored]


def check_memory(num_bytes: int, available: int | None = None) -> tuple[str, ...]:
    """OutOfMemory before loading what cannot fit; a note where it will be close."""
    left = available_bytes() if available is None else available
    if num_bytes > left:
        raise OutOfMemory(
            f"the weights need {shown_bytes(num_bytes)} under torch but {shown_bytes(left)} are available; "
            "diagnose its config.json instead (--config-only), or give --torch-dtype bfloat16"
        )
    if num_bytes > RISKY * left:
        risk = f"the weights need {shown_bytes(num_bytes)} of {shown_bytes(left)} available: loading them is"
        return (f"{risk} a risk, and pages may come from disk",)
    return ()


class CausalModel:
    """A loaded model, its Service, its Units."""

    def __init__(
        self, torch: ModuleType, transformers: ModuleType, folder: Path, name: str, choice: Choice
    ) -> None:
        self._torch = torch
        device = device_of(torch, choice.device)
        self._model = _load(torch, transformers, folder, choice).eval().to(device)
        self._takes_few_logits = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self._cache: Any = None
        self.device = device
        self.service = self._service(transformers, folder, name)

    def _service(self, transformers: ModuleType, folder: Path, name: str) -> Service:
        torch, model = self._torch, self._model
        config = model.config.get_text_config()
        dtype = str(model.dtype).removeprefix("torch.")
        attention = getattr(model.config, "_attn_implementation", "its own") or "its own"
        notes = () if self._takes_few_logits else ("this model computes the logits of every prompt token",)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        held = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers()))
        threads = threads_of(torch)
        words = (
            f"transformers {transformers.__version__} on torch {torch.__version__}, {dtype}, {attention} "
            f"attention, eager, on {self._device_name()}; {threads.words()}"
        )
        return Service(
            name=name,
            family=str(config.model_type),
            words=words,
            dtype=dtype,
            device=self.device,
            parameters=parameters,
            weight_bytes=held,
            threads=threads,
            layers=int(getattr(config, "num_hidden_layers", 0)),
            max_context=int(getattr(config, "max_position_embeddings", 0) or 1 << 30),
            notes=notes,
        )

    def _device_name(self) -> str:
        return "the CPU" if self.device == "cpu" else str(self._torch.cuda.get_device_name())

    def prefill(self, prompt: int) -> Unit:
        """A prompt of one stream and its first token."""
        ids = self._ids(prompt)
        return Unit("prefill", lambda: self._forward(ids, None), prompt, 1, 0)

    def decode(self, context: int, streams: int) -> Unit:
        """A token of each stream at `context` tokens: the cache is filled here, and cut back after each."""
        ids = self._torch.ones((streams, 1), dtype=self._torch.long, device=self.device)
        cache = self._filled(context, streams)
        can_crop = self._can_crop(cache, ids, context)
        if not can_crop:  # some layers may have been cut back, others not
            cache = self._filled(context, streams)
        self._cache = cache
        reset = (lambda: cache.crop(-1)) if can_crop else None  # takes the last one away
        return Unit("decode", lambda: self._forward(ids, cache), streams, streams, context, reset)

    def _filled(self, context: int, streams: int) -> Any:  # noqa: ANN401
        with self._torch.no_grad():
            cache = self._forward(self._ids(context), None).past_key_values
            if cache is None or not hasattr(cache, "get_seq_length"):
                raise UnsupportedModel(f"{self.service.family} gives no KV cache that transformers can hold")
            if streams > 1:
                cache.batch_repeat_interleave(streams)
        return cache

    def kv_bytes_per_token(self, context: int, streams: int) -> int:
        """Of one stream, as the cache holds them."""
        tensors = [getattr(layer, n, None) for layer in self._cache.layers for n in ("keys", "values")]
        held: int = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
        return round(held / max(1, context * streams))

    def _can_crop(self, cache: Any, ids: Any, context: int) -> bool:  # noqa: ANN401
        """A window's cache cannot be cut back; then the context grows by one at each unit."""
        self._forward(ids, cache)
        try:
            cache.crop(-1)
        except (ValueError, RuntimeError, NotImplementedError):
            return False
        return int(cache.get_seq_length()) == context

    def _ids(self, num_tokens: int) -> Any:  # noqa: ANN401
        vocab = int(self._model.config.get_text_config().vocab_size)
        ids = self._torch.arange(num_tokens, device=self.device) % min(vocab, 1000)
        return ids.unsqueeze(0)  # [1, tokens]

    def _forward(self, ids: Any, cache: Any) -> Any:  # noqa: ANN401
        torch = self._torch
        few: Mapping[str, int] = {"logits_to_keep": 1} if self._takes_few_logits else {}
        with torch.no_grad(), _Told(torch):
            out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, **few)
            with torch.profiler.record_function(SAMPLING_RANGE):
                out.logits[:, -1].argmax(dim=-1)
        return out


class _Told:
    """Errors of torch while it runs, as ours."""

    def __init__(self, torch: ModuleType) -> None:
        self._torch = torch

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, RuntimeError):
            return
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, self._torch.cuda.OutOfMemoryError) or "not enough memory" in str(error):
            raise OutOfMemory(f"torch ran out of memory ({text}); choose fewer --concurrency") from error
        raise InvalidModel(f"the model does not run under torch: {text}") from error


def _load(torch: ModuleType, transformers: ModuleType, folder: Path, choice: Choice) -> Any:  # noqa: ANN401
    dtype = "auto" if choice.dtype == "auto" else getattr(torch, choice.dtype)
    transformers.logging.disable_progress_bar()
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=choice.trust_remote_code, local_files_only=True
        )
    except (ValueError, OSError, KeyError, ImportError, RuntimeError, AttributeError, TypeError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidModel(
            f"transformers {transformers.__version__} cannot load {folder} as a causal language model: {text}"
        ) from error
