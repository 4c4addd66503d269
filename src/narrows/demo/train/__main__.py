"""Command line of the training: `python -m narrows.demo.train --data FOLDER --held-out FILE --out FOLDER`.

Inputs: arguments. Outputs: exit status 0, or 2 with one line that says what to change.
Writes `log.txt` and `pid` beside the checkpoint, so that a long run can be watched and paused.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from narrows.demo.train.config import RunSettings, continued
from narrows.demo.train.corpus import read_corpus, read_text
from narrows.demo.train.trainer import LOG, RunData, Trainer
from narrows.errors import CallerError, InvalidConfig


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m narrows.demo.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of .txt story files")
    parser.add_argument("--held-out", type=Path, required=True, help="text that is only ever evaluated")
    parser.add_argument("--out", type=Path, required=True, help="for checkpoint.pt, log.txt and model/")
    parser.add_argument("--minutes", type=float, default=90.0, help="time budget; pauses do not count")
    parser.add_argument("--wall-minutes", type=float, help="end by then on the clock, pauses included")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    begin.add_argument("--from", dest="model", type=Path, help="train this finished model further")
    parser.add_argument("--no-compile", action="store_true", help="slower, needs no C++ compiler")
    return parser


@contextmanager
def _log_to(out: Path) -> Iterator[None]:
    """Progress lines go to `log.txt` and stderr while the run lasts."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
    handlers: list[logging.Handler] = [logging.FileHandler(out / "log.txt"), logging.StreamHandler()]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()


def _train(given: argparse.Namespace) -> None:
    for option, minutes in (("--minutes", given.minutes), ("--wall-minutes", given.wall_minutes)):
        if minutes is not None and minutes <= 0:
            raise InvalidConfig(f"{option} is {minutes}; give a time above zero")
    data = RunData(read_corpus(given.data, given.held_out), read_text(given.held_out))
    settings = RunSettings(
        minutes=given.minutes, wall_minutes=given.wall_minutes, use_compile=not given.no_compile
    )
    if given.model is not None:
        trainer = Trainer.go_on_from(given.model, data, continued(settings), given.out)
    else:
        trainer = (Trainer.resume if given.resume else Trainer.start)(data, settings, given.out)
    with _log_to(given.out):
        LOG.info("stories: %s", {source.name: len(source.stories) for source in data.sources})
        trainer.run()


def main(arguments: list[str] | None = None) -> int:
    """Trains until the budget is spent."""
    try:
        _train(_parser().parse_args(arguments))
    except CallerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
