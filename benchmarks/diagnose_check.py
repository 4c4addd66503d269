"""How well `narrows diagnose` predicts: every remedy that can be applied here, predicted, applied, measured.

    diagnose_check.py --shapes FOLDER          measures and appends rows to results/diagnose_check.jsonl
    diagnose_check.py --report                 the tables of docs/1-diagnose.md, from the rows

The embedded model always; of the shapes of the CPU benchmark those whose folders are there (shapes.py makes
them). Present and remedied setups are timed by turns. Of a check that was measured several times the quietest
row counts, and rows during which others were on the cores (`quiet` below QUIET) are left out, counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diagnose_tables import BEGIN_CHECKS, END_CHECKS, summary, write_docs
from report import machine_facts
from tqdm import tqdm

from narrows.diagnose.check import checks
from narrows.diagnose.observe import Question, observed
from narrows.diagnose.options import ModelChoice
from narrows.diagnose.run import load_profile
from narrows.diagnose.subject import open_subject
from narrows.diagnose.text import seconds, three
from narrows.diagnose.workload import Asked, Workload, fit_context
from narrows.report import QUIET, Check

HERE = Path(__file__).parent
ROWS = HERE / "results" / "diagnose_check.jsonl"
Case = tuple[str, str, int, int, int]
# (shape, weights that it starts from, prompt, answer, streams)
CASES = (
    ("embedded", "auto", 512, 256, 1),
    ("embedded", "auto", 256, 64, 4),
    ("embedded", "q8", 512, 256, 1),
    ("qwen3-0.6b", "bf16", 128, 64, 1),
    ("qwen3-0.6b", "q8", 128, 64, 1),
    ("qwen3-0.6b", "q8", 128, 64, 4),
    ("llama-3.2-1b", "q8", 128, 64, 1),
)


def measure(shapes: Path, cases: Iterable[Case], rounds: int, budget_s: float) -> None:
    profile = load_profile()
    for shape, weights, prompt, output, streams in cases:
        folder = shapes / shape
        if shape != "embedded" and not (folder / "config.json").exists():
            print(f"{shape}: no folder {folder}; left out")
            continue
        model = open_subject(None if shape == "embedded" else str(folder))
        asked = Workload("check", (Asked(prompt, output),), streams, is_preset=True)
        fitted = fit_context(asked, model.spec.max_positions)
        choice = ModelChoice(weights=weights)
        question = Question(model, fitted, profile, choice, "tpot", spare_streams=4 * streams)
        with tqdm(desc=f"{shape} {weights}", leave=False) as bar:
            found = _run(question, bar, rounds, budget_s)
        facts = {"time": int(time.time()), **machine_facts()}
        case = {"shape": shape, "weights": weights, "prompt": prompt, "output": output, "streams": streams}
        with ROWS.open("a") as out:
            out.writelines(json.dumps({**facts, **case, **asdict(check)}) + "\n" for check in found)


def _run(question: Question, bar: tqdm, rounds: int, budget_s: float) -> list[Check]:
    def tell(text: str) -> None:
        bar.set_description_str(text)
        bar.update(1)

    with observed(question, tell) as seen:
        return list(checks(question, seen, tell, rounds=rounds, budget_s=budget_s))


def read_rows() -> tuple[list[dict[str, Any]], int]:
    """(the quietest row of each check of each case, how many checks had none that was quiet enough)."""
    best: dict[tuple[object, ...], dict[str, Any]] = {}
    for line in ROWS.read_text().splitlines():
        row = json.loads(line)
        key = tuple(row[name] for name in ("shape", "weights", "prompt", "streams", "remedy", "what"))
        if key not in best or row["quiet"] >= best[key]["quiet"]:
            best[key] = row
    quiet = [row for row in best.values() if row["quiet"] >= QUIET]
    return quiet, len(best) - len(quiet)


def error(row: dict[str, Any]) -> float:
    return row["predicted"] / row["measured"] - 1


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: errors by kind of remedy and by model, then every check."""
    head = ["| | checks | median error | 90th percentile | worst |", "|---|---|---|---|---|"]
    kinds = dict.fromkeys(str(row["remedy"]).split()[0] for row in rows)
    shapes = dict.fromkeys(str(row["shape"]) for row in rows)
    lines = [*head]
    for kind in kinds:
        lines.append(summary((error(row) for row in rows if str(row["remedy"]).split()[0] == kind), kind))
    for shape in shapes:
        lines.append(summary((error(row) for row in rows if row["shape"] == shape), shape))
    lines += [summary(map(error, rows), "**all**"), ""]
    lines += ["| model, now | prompt, streams | remedy | load | predicted | measured | error |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        show = seconds if row["unit"] == "s" else three
        unit = "" if row["unit"] == "s" else f" {row['unit']}"
        lines.append(
            f"| {row['shape']} {row['weights']} | {row['prompt']}, {row['streams']} | {row['remedy']} | "
            f"{row['what']} | {show(float(row['predicted']))}{unit} | "
            f"{show(float(row['measured']))}{unit} | {error(row):+.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes", type=Path, default=Path("shapes"), help="folders that shapes.py wrote, by shape"
    )
    parser.add_argument("--only", help="cases of this shape")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds of the rounds of one load")
    parser.add_argument("--case", type=int, help="only the case of this number")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        chosen = CASES if arguments.case is None else CASES[arguments.case : arguments.case + 1]
        cases = [case for case in chosen if arguments.only in (None, case[0])]
        measure(arguments.shapes, cases, arguments.rounds, arguments.budget)
    rows, num_left_out = read_rows()
    text = tables(rows) + f"\n\n{num_left_out} checks were left out: others were on the cores each time."
    print(text)
    if arguments.report:
        write_docs(text, BEGIN_CHECKS, END_CHECKS)


if __name__ == "__main__":
    main()
