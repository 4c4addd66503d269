"""The page: self-contained, safe against what names contain, and its arithmetic is the cost model's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from narrows.diagnose.assemble import report
from narrows.diagnose.candidate import weights_setup
from narrows.diagnose.html import render
from narrows.diagnose.observe import Observed
from narrows.diagnose.predict import CostModel, Predictor, Present
from narrows.diagnose.what_if import curve_of
from narrows.report import Check
from tests.diagnose.synthetic import as_if_measured, seen, subject, workload

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
# Moves sliders, then writes into the page what the page shows and what went wrong.
PROBE = """<script>
window.problems = [];
window.addEventListener("error", (event) => window.problems.push(event.message));
console.error = (...words) => window.problems.push(words.join(" "));
</script>"""
MOVES = """<script>
const seen = [JSON.parse(document.body.dataset.whatIf)];
for (const [name, value] of MOVES_TO_MAKE) {
  const input = document.getElementById(name);
  input.value = value;
  input.dispatchEvent(new Event("input"));
  seen.push(JSON.parse(document.body.dataset.whatIf));
}
document.body.dataset.seen = JSON.stringify({ seen, problems: window.problems,
  shown: document.getElementById("wi-tpot").textContent,
  dots: document.querySelectorAll("#roofline circle").length });
</script>"""


class References(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action") and value:
                self.found.append(value)
            if name == "id" and value:
                self.ids.append(value)


@pytest.fixture
def found(tmp_path: Path) -> Observed:
    plain = seen(subject(tmp_path, sliding_window=None), workload(700, 60, 4))
    return as_if_measured(plain, host_s=1e-4, request_s=2e-3)


def page_of(found: Observed, **changes: Any) -> str:
    return render(replace(report(found, {}), **changes))


def test_nothing_is_fetched(found: Observed) -> None:
    page = page_of(found, checks=(Check("threads 1", "decode", 1.1, 1.0, "s"),))
    references = References()
    references.feed(page)
    assert references.found == ["data:,"]
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/2000/svg)", page)
    assert len(references.ids) == len(set(references.ids))
    wanted = set(re.findall(r'NEEDS\("([\w-]+)"\)', page)) | {"batch", "context", "bits", "report"}
    assert wanted <= set(references.ids)
    assert "prefers-color-scheme: dark" in page


def test_the_report_in_the_page_is_the_report_and_cannot_break_out(found: Observed) -> None:
    evil = report(found, {})
    evil = replace(evil, model=replace(evil.model, name="</script><script>alert(1)</script>"))
    page = render(evil)
    assert "<script>alert" not in page
    text = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.S)
    assert text is not None
    assert json.loads(text[1])["model"]["name"] == evil.model.name


def browse(page: str, moves: list[tuple[str, int]], folder: Path) -> dict[str, Any]:
    """What the page says after sliders were moved."""
    assert CHROMIUM is not None
    page = page.replace("<head>", "<head>" + PROBE)
    page = page.replace("</body>", MOVES.replace("MOVES_TO_MAKE", json.dumps(moves)) + "</body>")
    (folder / "page.html").write_text(page)
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*words, "--dump-dom", (folder / "page.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    text = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert text is not None, done.stderr[-2000:]
    return dict(json.loads(text[1].replace("&quot;", '"').replace("&amp;", "&")))


@needs_chromium
def test_sliders_move_the_numbers_to_what_the_cost_model_says(found: Observed, tmp_path: Path) -> None:
    moves = [("batch", 0), ("context", 5), ("bits", 2), ("batch", 7), ("bits", 1)]
    told = browse(page_of(found), moves, tmp_path)
    assert told["problems"] == []
    assert told["dots"] > 10
    assert told["shown"].split()[0][0].isdigit()
    assert len({entry["tpot_s"] for entry in told["seen"]}) == len(told["seen"])
    findings = found.findings
    model = CostModel(curve_of(findings), findings.predictor.model.rates)
    present = findings.predictor.present
    predictor = Predictor(
        model, Present(findings.setup, present.loads, present.host_s, present.request_s, present.sampling_s)
    )
    for entry in told["seen"]:
        setup = findings.setup if entry["bits"] == "now" else weights_setup(findings, entry["bits"])
        wanted = predictor.figures(replace(setup, streams=entry["batch"], prompt=entry["context"]))
        for name in ("ttft_s", "tpot_s", "tokens_per_s", "memory_bytes", "stall_s"):
            assert entry[name] == pytest.approx(getattr(wanted, name), rel=1e-6), (entry, name)


@needs_chromium
@pytest.mark.parametrize("measured", [True, False])
def test_one_thread_is_one_thread_in_the_page(tmp_path: Path, measured: bool) -> None:
    found = seen(subject(tmp_path), workload(300, 20), weights="q8", threads=1)
    found = as_if_measured(found) if measured else found
    told = browse(page_of(found), [("context", 4), ("bits", 1)], tmp_path)
    findings = found.findings
    for entry in told["seen"]:
        setup = findings.setup if entry["bits"] == "now" else weights_setup(findings, entry["bits"])
        wanted = findings.predictor.figures(replace(setup, prompt=entry["context"]))
        assert entry["tpot_s"] == pytest.approx(wanted.tpot_s, rel=1e-5)


@needs_chromium
def test_a_window_and_int8_attention_are_in_the_page_too(tmp_path: Path) -> None:
    model = subject(tmp_path, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=300)
    found = as_if_measured(seen(model, workload(900, 30, 3), weights="q4"))
    assert found.findings.setup.int8_attention
    told = browse(page_of(found), [("context", 6), ("batch", 0)], tmp_path)
    predictor = found.findings.predictor
    curve = CostModel(curve_of(found.findings), predictor.model.rates)
    present = Present(found.findings.setup, predictor.present.loads)
    for entry in told["seen"]:
        other = replace(found.findings.setup, streams=entry["batch"], prompt=entry["context"])
        wanted = Predictor(curve, present).figures(other)
        assert entry["ttft_s"] == pytest.approx(wanted.ttft_s, rel=1e-6), entry
        assert entry["tpot_s"] == pytest.approx(wanted.tpot_s, rel=1e-6), entry
