"""instructions.py: comparing counts with the record, and the driver where one is built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import instructions
import pytest
from instructions import Count, compare

LINEAR = Count("linear p4/64, rows 8", "avx2", "weight byte", 1000, 2000, "GCC 12")
NORM = Count("rms_norm", "avx2", "float", 100, 300, "GCC 12")


def test_a_kernel_that_grew_by_more_than_the_share_is_named() -> None:
    found = compare([LINEAR, NORM], [replace(LINEAR, instructions=2061), replace(NORM, instructions=309)])
    assert [now.kernel for _, now in found.grown] == ["linear p4/64, rows 8"]
    assert found.is_worse
    assert "+3.0%" in instructions.report(found)[0] or "+3.1%" in instructions.report(found)[0]
    assert not compare([LINEAR], [replace(LINEAR, instructions=2059)]).is_worse


def test_other_sizes_are_compared_by_their_unit() -> None:
    twice = replace(LINEAR, units=2000, instructions=4000)
    found = compare([LINEAR], [twice])
    assert not found.grown
    assert not found.shrunk


def test_fewer_instructions_are_told_and_are_no_failure() -> None:
    found = compare([LINEAR], [replace(LINEAR, instructions=1000)])
    assert [now.instructions for _, now in found.shrunk] == [1000]
    assert not found.is_worse


def test_a_kernel_that_is_no_longer_counted_fails_but_not_one_of_another_instruction_set() -> None:
    elsewhere = replace(NORM, isa="avx512vnni")
    found = compare([LINEAR, NORM, elsewhere], [LINEAR])
    assert found.gone == [NORM]
    assert found.is_worse
    assert not compare([LINEAR, elsewhere], [LINEAR]).is_worse


def test_another_compiler_is_told() -> None:
    found = compare([LINEAR], [replace(LINEAR, compiler="Clang 19")])
    assert found.compilers == ("GCC 12", "Clang 19")
    assert any("another compiler" in line for line in instructions.report(found))


def test_the_spread_is_the_widest_of_any_kernel() -> None:
    runs = [[LINEAR, NORM], [replace(LINEAR, instructions=2001), replace(NORM, instructions=306)]]
    assert instructions.spread(runs) == pytest.approx(0.02)
    assert instructions.spread(runs[:1]) == 0.0


def test_recording_replaces_the_instruction_sets_that_were_counted(tmp_path: Path) -> None:
    target = tmp_path / "counts.jsonl"
    other = replace(NORM, isa="generic")
    instructions.record([LINEAR, NORM], 1, 0.0, target)
    instructions.record([other], 1, 0.0, target)
    instructions.record([replace(LINEAR, instructions=1)], 2, 0.001, target)
    rows = list(instructions.as_counts(target.read_text().splitlines()))
    assert rows == [other, replace(LINEAR, instructions=1)]
    assert json.loads(target.read_text().splitlines()[-1])["runs"] == 2


def test_the_record_in_the_repository_holds_every_instruction_set() -> None:
    rows = list(instructions.as_counts(instructions.ROWS.read_text().splitlines()))
    assert {row.isa for row in rows} == set(instructions.ISAS)
    assert all(row.instructions > 0 for row in rows)
    assert len({row.key for row in rows}) == len(rows)


def test_a_table_has_a_line_for_every_kernel() -> None:
    lines = instructions.table([LINEAR, NORM, replace(NORM, isa="generic")])
    assert len(lines) == 3
    assert lines[0].split() == ["instructions", "per", "avx2", "generic"]
