"""`narrows diagnose`: why a model is slow on this machine, and what would help; with --url, why a server is.

In: the command line. Out: the report as text, JSON or a page. The heavy imports wait until the options are
known to be right.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narrows.diagnose import options
from narrows.errors import InvalidConfig

if TYPE_CHECKING:
    from narrows.diagnose.observe import Observed, Question, Tell
    from narrows.machine.profile import MachineProfile
    from narrows.report import Check, Report, Target

PHASES = 6  # of a run, for the progress bar
MAX_HOSTS = 1024


def configure(parser: argparse.ArgumentParser) -> None:
    options.configure(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.url is not None:
        return _run_outside(arguments)
    options.refuse_outside(arguments)
    choice = options.model_choice(arguments)
    is_torch = options.check_torch(arguments)
    if not 1 <= arguments.hosts <= MAX_HOSTS:
        raise InvalidConfig(f"--hosts is {arguments.hosts}; it must be from 1 to {MAX_HOSTS}")
    if arguments.check and arguments.config_only:
        raise InvalidConfig("--check runs the model and --config-only does not; leave one of them out")
    options.read_link(arguments.link, ())
    page = None if arguments.html is None else _writable(Path(arguments.html))
    with _progress() as bar:
        if is_torch:
            from narrows.diagnose.eager.run import eager_report

            report = eager_report(arguments, choice, bar, lambda: load_profile(bar))
        else:
            question = _question(arguments, choice, bar)
            if arguments.check and question.subject.folder is None:
                raise InvalidConfig("--check runs the model, but there are no weights to run")
            report = _diagnose(question, arguments, bar)
    if page is not None:
        from narrows.diagnose.html import render

        page.write_text(render(report), encoding="utf-8")
        print(f"wrote {page}", file=sys.stderr)
    _print(report, as_json=arguments.json)
    return 0


def _run_outside(arguments: argparse.Namespace) -> int:
    from narrows.diagnose.outside.run import run_outside, show

    with _progress() as bar:
        report = run_outside(arguments, options.defaults(), bar.tell)
    return show(report, arguments)


def load_profile(bar: Bar | None = None) -> MachineProfile:
    """The stored profile of this machine, or one measured now."""
    from narrows.machine.measure import measure_machine

    if bar is None:
        return measure_machine()
    return measure_machine(progress=bar.measured)


def _question(arguments: argparse.Namespace, choice: options.ModelChoice, bar: Bar) -> Question:
    from narrows.diagnose.observe import Question
    from narrows.diagnose.subject import open_subject
    from narrows.diagnose.workload import fit_context, read_workload

    subject = open_subject(
        arguments.model,
        config_only=arguments.config_only,
        max_context=choice.max_context,
        offline=arguments.offline,
    )
    workload = read_workload(
        arguments.workload,
        streams=arguments.concurrency,
        requests_per_s=arguments.rate,
        count_tokens=_counter(subject.folder),
    )
    fitted = fit_context(workload, min(subject.spec.max_positions, choice.max_context or 1 << 62))
    profile = load_profile(bar)
    target: Target = arguments.target or ("ttft" if fitted.output_tokens == 1 else "tpot")
    link = options.read_link(arguments.link, profile.links)
    spare = max(1, fitted.streams * 4) if arguments.check else 1
    return Question(subject, fitted, profile, choice, target, link, arguments.hosts, spare)


def _counter(folder: Path | None) -> Any:  # noqa: ANN401
    """Counts the tokens of a prompt's text; opened at the first one."""
    if folder is None:
        return None
    opened: list[Any] = []

    def count(text: str) -> int:
        if not opened:
            from narrows.models.tokenizer import Tokenizer

            opened.append(Tokenizer.from_folder(folder))
        return len(opened[0].encode(text))

    return count


def _diagnose(question: Question, arguments: argparse.Namespace, bar: Bar) -> Report:
    from narrows.diagnose.assemble import report
    from narrows.diagnose.observe import observed

    with observed(question, bar.tell, bar.packed) as seen:
        made = report(seen, question.choice.words())
        if arguments.check:
            found, notes = _checks(question, seen, bar.tell)
            made = replace(made, checks=found, notes=(*made.notes, *notes))
    return made


def _checks(question: Question, seen: Observed, tell: Tell) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """(what was measured, what was not): Ctrl-C keeps what there is."""
    from narrows.diagnose.check import checks

    found: list[Check] = []
    skipped: list[str] = []
    notes: list[str] = []
    try:
        for check in checks(question, seen, tell, skipped=skipped.append):
            found.append(check)
    except KeyboardInterrupt:
        notes.append("the checks were interrupted: these are the ones made until then")
    if skipped:
        notes.append(f"not checked, as there is no memory beside the present setup: {', '.join(skipped)}")
    return tuple(found), tuple(notes)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
        return
    from narrows.diagnose.text import lines

    print("\n".join(lines(report)))


def _writable(path: Path) -> Path:
    """Told before minutes are spent, not after."""
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidConfig(f"--html {path}: give a file in a folder that exists")
    return path


class Bar:
    """What is being done, on stderr, where somebody looks."""

    def __init__(self, bar: Any = None) -> None:  # noqa: ANN401
        self._bar = bar

    def tell(self, text: str) -> None:
        """The next part begins."""
        if self._bar is None:
            return
        self._bar.set_description_str(text)
        self._bar.total = max(self._bar.total, self._bar.n + 1)
        self._bar.update(1)

    def measured(self, what: str, num_done: int, num_total: int) -> None:
        """Parts of the machine, where its profile was not stored."""
        if self._bar is not None:
            self._bar.set_description_str(f"measuring {what}, {num_done} of {num_total}")

    def packed(self, num_done: int, num_total: int) -> None:
        """Tensors, while a model is packed for the first time."""
        if self._bar is not None and num_done:
            self._bar.set_description_str(f"packing weights, {num_done} of {num_total}")


@contextmanager
def _progress() -> Iterator[Bar]:
    if not sys.stderr.isatty():
        yield Bar()
        return
    from tqdm import tqdm

    with tqdm(total=PHASES, leave=False, bar_format="{desc:40} {bar:20} {elapsed}") as bar:
        yield Bar(bar)
