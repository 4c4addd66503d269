from __future__ import annotations

from collections.abc import Iterator

import pytest
from serve_harness import RunningServer, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running
