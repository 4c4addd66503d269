"""Every family against transformers on tiny random models: the same logits and the same greedy tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from narrows.models.checkpoint import open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import FAMILIES, build_spec
from narrows.models.reference import ReferenceModel
from tests.models.tiny import VARIANTS, prompt, save_tiny, transformers_greedy

NUM_PROMPT, NUM_NEW = 17, 64


def logit_tolerance(logits: torch.Tensor) -> float:
    """Float32 sums of ~100 products through some 30 operations, relative to the largest logit."""
    return 30 * 100**0.5 * torch.finfo(torch.float32).eps * max(1.0, float(logits.abs().max()))


def load(folder: Path) -> ReferenceModel:
    checkpoint = open_checkpoint(folder)
    return ReferenceModel(build_spec(read_config(folder), checkpoint), checkpoint)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_agrees_with_transformers(variant: str, tmp_path: Path) -> None:
    theirs = save_tiny(variant, tmp_path)
    ours = load(tmp_path)
    ids = prompt(NUM_PROMPT)
    expected_tokens, expected_logits = transformers_greedy(theirs, ids, NUM_NEW)
    tokens = ours.greedy(ids, NUM_NEW)
    assert tokens == expected_tokens
    assert len(set(tokens)) > 3, "a model that repeats one token proves little"
    logits = ours.logits(ids + tokens)[NUM_PROMPT - 1 : -1]
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=logit_tolerance(expected_logits))


def test_every_family_has_a_variant(tmp_path: Path) -> None:
    covered = set()
    for variant in VARIANTS:
        save_tiny(variant, tmp_path / variant)
        covered.add(read_config(tmp_path / variant).model_type)
    assert covered == set(FAMILIES)
