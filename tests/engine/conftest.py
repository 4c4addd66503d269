"""The worker that tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_cases import MakeWorker, make_engine

from narrows.engine.fake import FakeRunner
from narrows.engine.worker import EngineWorker


@pytest.fixture
def worker_of() -> Iterator[MakeWorker]:
    """Makes workers and closes them; what they hold at the end is nothing."""
    made: list[tuple[EngineWorker, FakeRunner]] = []

    def make(runner: FakeRunner | None = None, **settings) -> EngineWorker:
        runner = runner or FakeRunner()
        made.append((EngineWorker(make_engine(runner, **settings)), runner))
        return made[-1][0]

    yield make
    for worker, runner in made:
        runner.gate.set()
        worker.close()
        assert runner.is_closed
