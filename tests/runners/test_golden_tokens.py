"""Every instruction set of this CPU writes the tokens it wrote when they were recorded, in every recipe: a
kernel that changes a result, however slightly, is seen here (golden.py remakes the record).
"""

from __future__ import annotations

import json

import pytest

from narrows import _core
from tests.runners.golden import FILE, RECIPES, tokens_on

GOLDEN: dict[str, dict[str, list[int]]] = json.loads(FILE.read_text())


@pytest.mark.parametrize("isa", _core.available_isas())
def test_the_tokens_are_those_on_record(isa: str) -> None:
    assert set(GOLDEN[isa]) == set(RECIPES)
    assert tokens_on(isa) == GOLDEN[isa]


def test_instruction_sets_agree_in_bf16_and_q8() -> None:
    """Their softmax adds in vectors of different widths. In 4 bits tokens lie so close that it may decide."""
    for recipe in ("bf16", "q8"):
        assert len({tuple(of[recipe]) for of in GOLDEN.values()}) == 1
