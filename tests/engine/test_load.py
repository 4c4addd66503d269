"""Opening a model: the tokenizer is compiled at the first start and used at the second."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrows.engine.client import GenerationRequest, SamplingParams
from narrows.engine.load import LoadedEngine, load_engine
from narrows.models.compiled_encoder import CompiledEncoder, open_encoder
from narrows.runners.options import CpuOptions

PROMPT = "Once upon a time, there was a little fox who could not sleep."


def story(loaded: LoadedEngine) -> str:
    request = GenerationRequest(
        prompt_ids=tuple(loaded.tokenizer.encode(PROMPT)),
        sampling=SamplingParams(temperature=0),
        max_tokens=8,
    )
    with loaded.client.submit(request) as stream:
        return "".join(chunk.text for chunk in stream)


def open_embedded(*, cache: bool) -> tuple[bool, str]:
    """Whether the tokenizer was compiled, and what the model writes."""
    loaded = load_engine(options=CpuOptions(num_blocks=32, max_context=256, cache=cache))
    try:
        return isinstance(loaded.tokenizer._encoder, CompiledEncoder), story(loaded)
    finally:
        loaded.client.close()


def test_the_second_start_opens_a_compiled_tokenizer_and_answers_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARROWS_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(open_encoder.__kwdefaults__, "min_bytes", 0)  # the embedded one is small
    starts = [open_embedded(cache=cache) for cache in (False, True, True, False)]
    assert [is_compiled for is_compiled, _ in starts] == [False, False, True, False]
    assert len({text for _, text in starts}) == 1
    assert starts[0][1]
