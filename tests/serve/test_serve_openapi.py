"""The API document against the server: schemathesis sends what the document allows and what it forbids."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serve_harness import MODEL, RunningServer, running_server, wait_for

from narrows.engine.fake import FakeRunner
from narrows.serve.app import create_app
from narrows.serve.openapi import document

EXAMPLES = 25
OPERATIONS = [(path, method) for path, item in document()["paths"].items() for method in item]


@pytest.fixture(scope="module")
def roomy_server() -> Iterator[RunningServer]:
    with running_server(runner=FakeRunner(num_blocks=2048)) as running:
        yield running


def test_the_document_names_every_route(server: RunningServer) -> None:
    gate = create_app(server.service)
    routes = {
        (route.path.replace(":path", ""), method.lower())
        for route in gate._app.routes
        for method in route.methods - {"HEAD"}
    }
    assert routes == set(OPERATIONS)
    with server.http() as http:
        assert http.get("/openapi.json").json() == document()


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_schemathesis_finds_nothing(
    roomy_server: RunningServer, path: str, method: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document())
    operation = schema[path][method.upper()]
    if mode is GenerationMode.NEGATIVE and method == "get":
        pytest.skip("without a body or a query there is nothing to get wrong")

    @given(case=operation.as_strategy(mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        if (
            mode is GenerationMode.POSITIVE
            and isinstance(case.body, dict)
            and isinstance(case.body.get("model"), str)
        ):
            case.body["model"] = MODEL
        # What the document allows may still be too long for the context, or name tokens this model does not
        # have.
        response = case.call_and_validate(
            base_url=roomy_server.url, timeout=30, excluded_checks=[positive_data_acceptance]
        )
        statuses.add(response.status_code)

    statuses: set[int] = set()
    check()
    assert (
        (mode is GenerationMode.POSITIVE and 200 in statuses)
        or 400 in statuses
        or path == "/v1/models/{model}"
    )
    wait_for(roomy_server.is_idle)
