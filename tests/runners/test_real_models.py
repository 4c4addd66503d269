"""The real small models write the text that transformers writes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.models.reference import ReferenceModel
from narrows.models.tokenizer import Tokenizer
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions
from tests.models.real import EMBEDDED, NAMES, real_model
from tests.runners.generate import greedy

STARTS = ("Once upon a time", "Lily and Tom", "The little dog")
NUM_NEW = 100


@pytest.mark.parametrize("name", [*NAMES, EMBEDDED])
def test_greedy_text_is_that_of_transformers(name: str) -> None:
    folder = real_model(name)
    torch.set_num_threads(1)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(folder)
    runner = CpuRunner.from_folder(
        folder, CpuOptions(weights="f32", kv_dtype="f32", cache=False, num_blocks=64)
    )
    tokenizer = Tokenizer.from_folder(folder, vocab=runner.info.vocab_size)
    for start in STARTS:
        ids = tokenizer.encode(start)
        assert ids == their_tokenizer(start)["input_ids"]
        with torch.no_grad():
            out = theirs.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=NUM_NEW,
                min_new_tokens=NUM_NEW,
                do_sample=False,
                pad_token_id=0,
            )[0].tolist()
        # min_new_tokens bans the end token in transformers, so up to there both must agree
        tokens = greedy(runner, ids, NUM_NEW)
        end = next((i for i, token in enumerate(tokens) if token in tokenizer.eos_ids), NUM_NEW)
        assert end > 10
        assert tokens[:end] == out[len(ids) : len(ids) + end]
        text = their_tokenizer.decode(out[: len(ids) + end], skip_special_tokens=True)
        assert tokenizer.decode(ids + tokens[:end]) == text


@pytest.mark.parametrize("name", [*NAMES, EMBEDDED])
def test_default_settings_stay_close_to_the_reference(name: str) -> None:
    """f16 keys and values change a logit by no more than some roundings of 2^-11."""
    folder = real_model(name)
    checkpoint = open_checkpoint(folder)
    oracle = ReferenceModel(build_spec(read_config(folder), checkpoint), checkpoint)
    runner = CpuRunner.from_folder(folder, CpuOptions(cache=False))
    ids = Tokenizer.from_folder(folder).encode(
        "Once upon a time there was a little girl who lived in a house."
    )
    wanted = oracle.logits(ids)
    found = torch.from_numpy(runner.logits(ids))
    assert float((found - wanted).abs().max()) <= 2.0**-11 * 8 * float(wanted.abs().max())
