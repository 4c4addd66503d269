"""`narrows diagnose --torch` and `--torch-module`: a user's present service, timed and laid against ceilings.

In: the command line. Out: Report. What can be refused is refused before torch is imported or weights are
read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from narrows.diagnose.eager import narrows
from narrows.diagnose.eager.assemble import eager_report_of
from narrows.diagnose.eager.causal import CausalModel, Choice, check_config, check_memory, weight_bytes
from narrows.diagnose.eager.findings import EagerFindings
from narrows.diagnose.eager.imports import torch_modules, transformers_module
from narrows.diagnose.eager.observe import Seen, Timing, observe
from narrows.diagnose.eager.user_module import open_module
from narrows.diagnose.observe import Question, observed
from narrows.diagnose.options import ModelChoice, read_link
from narrows.diagnose.subject import EMBEDDED_NAME, Subject, open_subject
from narrows.diagnose.workload import Workload, fit_context, read_workload
from narrows.errors import InvalidConfig, NarrowsError, UnsupportedModel
from narrows.machine.profile import MachineProfile
from narrows.models.config import ModelConfig, read_config
from narrows.models.resolve import resolve_model
from narrows.report import Report, Target

if TYPE_CHECKING:
    from narrows.diagnose.observe import Tell
    from narrows.diagnose.run import Bar

LoadProfile = Callable[[], MachineProfile]


@dataclass(frozen=True, slots=True)
class Asked:
    """A model to be timed under transformers. `subject` None: Narrows does not know its like."""

    folder: Path
    name: str
    workload: Workload
    subject: Subject | None
    choice: Choice
    notes: tuple[str, ...]


def eager_report(
    arguments: argparse.Namespace, choice: ModelChoice, bar: Bar, load_profile: LoadProfile
) -> Report:
    if arguments.torch_module is not None:
        return _module_report(arguments, bar.tell, load_profile)
    asked = _asked(arguments, choice)
    torch, transformers = torch_modules(), transformers_module()
    profile = load_profile()
    seen = _time_model(torch, transformers, asked, profile, bar.tell)
    target: Target = arguments.target or ("ttft" if asked.workload.output_tokens == 1 else "tpot")
    question = _question(asked, profile, choice, target, arguments)
    notes = (*asked.notes, *seen.notes)
    if question is None:
        return eager_report_of(seen.findings, profile, target, notes=notes)
    then = narrows.predicted(question)
    can = [*narrows.candidates(question, then)]
    now = seen.findings.figures
    figures = then.figures if can else None
    made = eager_report_of(seen.findings, profile, target, candidates=can, notes=notes)
    made = replace(made, beside=narrows.beside(now, figures))
    if arguments.check and figures is not None and not seen.is_interrupted:
        made = _checked(made, question, bar.tell)
    return made


def _module_report(arguments: argparse.Namespace, tell: Tell, load_profile: LoadProfile) -> Report:
    torch = torch_modules()
    tell("calling the factory")
    service, unit = open_module(torch, arguments.torch_module)
    profile = load_profile()
    timing = Timing(torch, profile, service, tell)
    seen = observe(
        timing, [lambda: unit], lambda runs, near, spell: EagerFindings(service, runs, near, spell=spell)
    )
    return eager_report_of(seen.findings, profile, arguments.target or "tpot", notes=seen.notes)


def _asked(arguments: argparse.Namespace, choice: ModelChoice) -> Asked:
    """Everything that can be wrong without torch."""
    folder = resolve_model(arguments.model, offline=arguments.offline)
    config = read_config(folder)
    eager = Choice(arguments.torch_dtype, arguments.torch_device, arguments.trust_remote_code)
    check_config(config, eager)
    notes = check_memory(weight_bytes(folder, config, eager))
    subject, problem = _subject(arguments, choice)
    context = _context(config, subject, choice)
    workload = read_workload(
        arguments.workload,
        streams=arguments.concurrency,
        requests_per_s=arguments.rate,
        count_tokens=_counter(folder),
    )
    name = EMBEDDED_NAME if arguments.model is None else folder.resolve().name
    return Asked(folder, name, fit_context(workload, context), subject, eager, (*notes, *problem))


def _counter(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a prompt's text."""

    def count(text: str) -> int:
        from narrows.models.tokenizer import Tokenizer

        return len(Tokenizer.from_folder(folder).encode(text))

    return count


def _subject(arguments: argparse.Namespace, choice: ModelChoice) -> tuple[Subject | None, tuple[str, ...]]:
    try:
        found = open_subject(arguments.model, max_context=choice.max_context, offline=arguments.offline)
    except UnsupportedModel as error:
        if arguments.check:
            raise
        return None, (f"no prediction of this model under Narrows: {error}",)
    if arguments.check and (found.folder is None or not found.is_known):
        raise InvalidConfig("--check runs the model under Narrows, which does not run this architecture")
    return found, found.missing if not found.is_known else ()


def _context(config: ModelConfig, subject: Subject | None, choice: ModelChoice) -> int:
    given = config.values.get("max_position_embeddings") or config.values.get("n_positions")
    positions = subject.spec.max_positions if subject is not None else given
    return min(positions if isinstance(positions, int) else 1 << 30, choice.max_context or 1 << 30)


def _time_model(
    torch: ModuleType, transformers: ModuleType, asked: Asked, profile: MachineProfile, tell: Tell
) -> Seen:
    tell("loading the model under transformers")
    model = CausalModel(torch, transformers, asked.folder, asked.name, asked.choice)
    workload, most = asked.workload, model.service.max_context
    context = max(1, min(workload.prompt_tokens + workload.output_tokens // 2, most - 2))
    units = [
        lambda: model.prefill(workload.prompt_tokens),
        lambda: model.decode(context, workload.streams),
    ]
    timing = Timing(torch, profile, model.service, tell)
    return observe(
        timing,
        units,
        lambda runs, near, spell: EagerFindings(
            model.service, runs, near, workload, model.kv_bytes_per_token(context, workload.streams), spell
        ),
    )


def _question(
    asked: Asked, profile: MachineProfile, choice: ModelChoice, target: Target, arguments: argparse.Namespace
) -> Question | None:
    if asked.subject is None:
        return None
    link = read_link(arguments.link, profile.links)
    return Question(asked.subject, asked.workload, profile, choice, target, link, arguments.hosts)


def _checked(report: Report, question: Question, tell: Tell) -> Report:
    """The same model run under Narrows; Ctrl-C keeps the report without it."""
    try:
        with observed(question, tell) as seen:
            then = narrows.predicted(question, seen.ceilings)
            found, quiet = seen.findings.figures, seen.findings.quiet
    except KeyboardInterrupt:
        return replace(report, notes=(*report.notes, "the run under Narrows was interrupted"))
    except NarrowsError as error:
        return replace(report, notes=(*report.notes, f"Narrows could not run it here: {error}"))
    return replace(
        report,
        beside=narrows.beside(report.now, then.figures, found),
        checks=narrows.checks(then.figures, found, quiet),
    )
