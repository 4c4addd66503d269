"""growth.py: runners over noise, timing a point, fitting rates, errors and the chart."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import growth
import growth_chart
import growth_fit
import growth_models
import growth_points
import growth_report
import pytest
from growth_points import Point, Row, Try

from narrows import _core
from narrows.models import costs, sizes
from narrows.models.step_time import Rates


def row(point: Point, rates: Rates, *, factor: float = 1.0) -> Row:
    """As if measured on a machine of these rates, `factor` slower."""
    ceilings = Try(0.0, 1, 40.0, 400.0, True, {})
    groups = growth_points.predict_groups(point, ceilings, rates)
    seconds = factor * growth_points.predict(point, ceilings, rates)
    scaled = {group: factor * value for group, value in groups.items()}
    return Row(point, [replace(ceilings, seconds=seconds, units=1 + int(1 / seconds), groups=scaled)])


def points() -> list[Point]:
    """All that the calibration measures."""
    return [
        point
        for model, plan in growth.CALIBRATION_PLANS.items()
        for point in growth.points_of(model, plan, 2)
    ]


def test_a_runner_over_noise_reads_the_bytes_that_costs_count() -> None:
    known = growth_models.outline("9m", "q4")
    runner = growth_models.make_runner("9m", "q4", threads=2, num_blocks=8)
    growth_models.touch(runner, 8)
    assert runner.info.weight_bytes_per_step == sizes.weight_bytes(known.spec, known.recipe).step
    assert runner.info.kv_bytes_per_token == sizes.kv_bytes_per_token(known.spec, kv=known.kv)
    logits = runner.logits([1, 2, 3])
    assert logits.shape == (3, known.spec.vocab)
    assert logits.std() > 0.01
    runner.close()


@pytest.mark.parametrize(
    "point",
    [Point("9m", "q4", 1, "prefill", tokens=40), Point("9m", "q4", 1, "decode", context=30, streams=2)],
)
def test_a_point_is_timed_between_two_ceilings(point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth_points, "WORK_S", 0.01)
    runner = growth_models.make_runner("9m", "q4", threads=1, num_blocks=point.num_blocks)
    (found,) = growth_points.Clock(runner, _core.ThreadPool(1)).measure([point], 2)
    runner.close()
    assert len(found.tries) >= 2
    for one in found.tries:
        assert one.seconds * one.units > 0
        assert min(one.gb_per_s, one.gmac_per_s) > 0
        assert set(one.groups) == set(costs.GROUPS)
    assert Row.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_tries_between_unequal_ceilings_are_set_aside() -> None:
    good = row(Point("9m", "q4", 2, "decode", context=128), Rates()).tries[0]
    bad = replace(good, seconds=9.0, steady=False)
    assert Row(points()[0], [bad, good]).used == [good]
    assert Row(points()[0], [bad]).used == [bad]


def test_a_fit_finds_the_rates_behind_the_rows() -> None:
    true = replace(Rates(), stream=0.7, tile=0.6, head_macs=200.0, stage_s=5e-6)
    rows = [row(point, true) for point in points()]
    before = [abs(growth_report.error(one, Rates())) for one in rows]
    found = growth_fit.fit(rows, Rates())
    after = [abs(growth_report.error(one, found)) for one in rows]
    assert max(before) > 0.10
    assert max(after) < 0.01


def test_errors_are_summed_up_by_axis() -> None:
    rates = Rates()
    rows = [row(point, rates, factor=1 / 1.5 if point.kind == "prefill" else 1.0) for point in points()]
    table = {
        cells[1].strip(): cells for line in growth_report.summary(rows, rates) if (cells := line.split("|"))
    }
    num_prompts = sum(point.kind == "prefill" for point in points())
    assert table["prompt length"][2:6] == [f" {num_prompts} ", " 0 ", " 50.0% ", " +50% "]
    assert table["all"][2:4] == [f" {len(rows)} ", f" {len(rows) - num_prompts} "]
    shown = growth_report.markdown(rows, rates)
    assert len(shown) == len(rows) + 2
    assert sum("| +50% |" in line for line in shown) == num_prompts
    assert growth_report.line(rows[0], rates).count("!") == (points()[0].kind == "prefill")


def test_the_chart_has_a_dot_for_every_row_it_shows(tmp_path: Path) -> None:
    rows = [row(point, Rates()) for point in growth.points_of("9m:q4", growth.PLANS["9m:q4"], 2)]
    growth_chart.write(rows, Rates(), tmp_path / "growth.svg")
    root = ElementTree.parse(tmp_path / "growth.svg").getroot()
    dots = root.findall(".//{http://www.w3.org/2000/svg}circle")
    wanted = sum(panel.wanted(one.point) for panel in growth_chart.PANELS for one in rows)
    assert len(dots) == wanted > len(rows)
