"""Running a server: keys, limits, health, metrics, overload, failures and the end."""

from __future__ import annotations

import json
import signal
import threading

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_harness import ASK, MODEL, RunningServer, post_bytes, running_server, wait_for

from narrows.engine.config import EngineConfig
from narrows.engine.fake import FakeRunner
from narrows.errors import InvalidConfig
from narrows.serve.config import ServeConfig, read_api_keys
from narrows.serve.server import bind, serve_until_stopped

CHAT = "/v1/chat/completions"


def sample(server: RunningServer, name: str, **labels: str) -> float:
    with server.http() as http:
        response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = [
        item.value
        for family in text_string_to_metric_families(response.text)
        for item in family.samples
        if item.name == name and labels.items() <= item.labels.items()
    ]
    assert len(found) == 1, name
    return found[0]


def test_keys_are_asked_for_everywhere_but_at_the_health_routes() -> None:
    with running_server(api_keys=("first", "zweiter-schlüssel")) as server, server.http() as http:
        assert http.get("/health").json() == http.get("/ready").json() == {"status": "ok"}
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            response = http.get(path)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
        wrong = (
            "",
            "Bearer",
            "Bearer wrong",
            "Basic first",
            "first",
            "Bearer first2",
            "Bearer firs",
            "Bearer \xff",
        )
        for value in wrong:
            assert (
                http.get("/v1/models", headers={"authorization": value.encode("latin-1")}).status_code == 401
            )
        for key in ("first", "zweiter-schlüssel"):
            assert (
                http.get("/v1/models", headers={"authorization": f"bearer {key}".encode()}).status_code == 200
            )
        with server.client(api_key="first") as client:
            assert client.chat.completions.create(**ASK, max_tokens=2).choices
        with server.client(api_key="second") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_keys_come_from_options_file_and_environment(tmp_path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nfrom-file\n\n", encoding="utf-8")
    keys = read_api_keys(["a, b", "a"], str(path), environ={"NARROWS_API_KEY": "c,d"})
    assert keys == ("a", "b", "c", "d", "from-file")
    assert read_api_keys([], None, environ={}) == ()
    with pytest.raises(InvalidConfig, match="none was given"):
        read_api_keys([" , "], None, environ={})
    with pytest.raises(InvalidConfig, match="cannot read"):
        read_api_keys([], str(tmp_path / "absent"), environ={})


@pytest.mark.parametrize(
    "options",
    [
        {"port": 70000},
        {"model_names": ()},
        {"ping_interval_s": 0},
        {"max_body_bytes": -1},
        {"drain_timeout_s": -1},
        {"host": ""},
    ],
)
def test_impossible_settings_are_refused(options: dict) -> None:
    with pytest.raises(InvalidConfig):
        ServeConfig(**{"model_names": ("m",), **options})


def test_a_taken_port_is_a_clear_error(server: RunningServer) -> None:
    with pytest.raises(InvalidConfig, match="cannot listen"):
        bind(ServeConfig(("m",), port=server.address[1]))
    with pytest.raises(InvalidConfig, match="cannot listen"):
        bind(ServeConfig(("m",), host="no-such-host.invalid"))


def test_a_port_taken_while_the_model_was_loading_is_a_clear_error() -> None:
    """Two sockets may be bound to one address until one of them listens."""
    with running_server() as server:
        first = bind(ServeConfig(("m",), port=0))
        second = bind(ServeConfig(("m",), port=first.getsockname()[1]))
        with first:
            first.listen()
            with pytest.raises(InvalidConfig, match=r"cannot listen.*another server took it"):
                serve_until_stopped(server.service, second, on_listening=lambda: None)


def test_request_ids_are_taken_over_where_harmless(server: RunningServer) -> None:
    with server.http() as http:
        assert http.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
        for given in ("a b", "x" * 200, "<script>"):
            assert (
                http.get("/health", headers={"x-request-id": given})
                .headers["x-request-id"]
                .startswith("req_")
            )
        ids = {http.get("/nowhere").headers["x-request-id"] for _ in range(3)}
        assert len(ids) == 3


def test_browsers_of_other_sites_get_no_permission(server: RunningServer) -> None:
    with server.http() as http:
        response = http.get("/v1/models", headers={"origin": "http://evil.example"})
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_metrics_count_what_happened() -> None:
    runner = FakeRunner(num_blocks=64)
    with running_server(runner=runner) as server, server.client() as client:
        options = {**ASK, "max_tokens": 10, "extra_body": {"ignore_eos": True}}
        client.chat.completions.create(**options, n=2)
        with server.http() as http:
            http.post(CHAT, json={})
            http.get("/secret/path")
        assert sample(server, "narrows_prompt_tokens_total", model_name=MODEL) == 2 * 4
        assert sample(server, "narrows_generation_tokens_total") == 20
        assert sample(server, "narrows_requests_finished_total", finish_reason="length") == 2
        assert sample(server, "narrows_time_to_first_token_seconds_count") == 2
        assert sample(server, "narrows_time_per_output_token_seconds_count") == 2
        assert sample(server, "narrows_queue_time_seconds_count") == 2
        assert sample(server, "narrows_step_batch_size_sum") == 20
        steps = sample(server, "narrows_step_batch_size_count")
        assert 10 <= steps <= 20
        # Steps of one request and of two: together 20 tokens.
        assert sample(server, "narrows_step_batch_size_bucket", le="1.0") == 2 * steps - 20
        for bound in ("2.0", "64.0", "+Inf"):
            assert sample(server, "narrows_step_batch_size_bucket", le=bound) == steps
        assert sample(server, "narrows_http_responses_total", route=CHAT, status="400") == 1
        assert sample(server, "narrows_http_responses_total", route="other", status="404") == 1
        runner.gate.clear()
        with server.http() as http, http.stream("POST", CHAT, json={**ASK, "stream": True}):
            wait_for(lambda: server.engine.stats().num_used_blocks > 0)
            assert sample(server, "narrows_requests_running") == 1
            assert 0 < sample(server, "narrows_kv_use_ratio") < 1
        # The answer would otherwise end by itself before the server has seen that nobody reads it.
        wait_for(lambda: server.service.num_under_way == 0)
        runner.gate.set()
        wait_for(server.is_idle)
        assert sample(server, "narrows_requests_finished_total", finish_reason="abort") == 1
        assert sample(server, "narrows_kv_blocks_used") == 0


def test_a_full_queue_answers_when_to_come_back() -> None:
    runner = FakeRunner()
    with running_server(runner=runner, engine_config=EngineConfig(max_running=1, max_waiting=2)) as server:
        runner.gate.clear()
        body = post_bytes(CHAT, json.dumps(ASK).encode())
        waiting = [server.raw(body) for _ in range(3)]
        wait_for(lambda: server.service.num_under_way == 3)
        with server.http() as http:
            for fields in ({}, {"stream": True}, {"n": 2}):
                response = http.post(CHAT, json={**ASK, **fields})
                assert response.status_code == 429
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["error"]["code"] == "overloaded"
        with server.client() as client, pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**ASK)
        runner.gate.set()
        assert all(b" 200 " in connection.recv(65536) for connection in waiting)
        for connection in waiting:
            connection.close()
        wait_for(server.is_idle)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_engine_reaches_every_client(stream: bool) -> None:
    runner = FakeRunner()
    with running_server(runner=runner) as server, server.client() as client:
        runner.gate.clear()
        caught: list[Exception] = []

        def ask() -> None:
            try:
                answer = client.chat.completions.create(**ASK, stream=stream)
                list(answer) if stream else None
            except openai.APIError as error:
                caught.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: server.service.num_under_way == 3)
        runner.failure = ZeroDivisionError("kernel on fire")
        runner.gate.set()
        for thread in threads:
            thread.join(10)
        assert len(caught) == 3
        assert all("kernel on fire" in str(error) for error in caught)
        with server.http() as http:
            assert http.get("/health").status_code == 200
            assert http.get("/ready").status_code == 500
            assert http.post(CHAT, json=ASK).status_code == 500


def test_numbers_that_are_not_finite_end_one_answer_only() -> None:
    runner = FakeRunner()
    runner.poison_id = ord("#")
    with running_server(runner=runner) as server, server.client() as client:
        bad = {"model": MODEL, "messages": [{"role": "user", "content": "#"}]}
        with pytest.raises(openai.InternalServerError, match="not finite"):
            client.chat.completions.create(**bad)
        with pytest.raises(openai.APIError, match="not finite"):
            list(client.chat.completions.create(**bad, stream=True))
        assert client.chat.completions.create(**ASK, max_tokens=2).choices


def test_draining_lets_running_answers_finish_and_refuses_new_ones() -> None:
    runner = FakeRunner()
    with running_server(runner=runner) as server:
        runner.gate.clear()
        connection = server.raw(
            post_bytes(CHAT, json.dumps({**ASK, "max_tokens": 5, "stream": True}).encode())
        )
        wait_for(lambda: server.service.num_under_way == 1)
        server.server.drain()
        with server.http() as http:
            assert http.get("/health").status_code == 200
            assert http.get("/ready").status_code == 503
            response = http.post(CHAT, json=ASK)
            assert response.status_code == 503
            assert response.headers["retry-after"]
        runner.gate.set()
        data = b""
        while part := connection.recv(65536):
            data += part
        assert b"data: [DONE]" in data
        assert b'"error"' not in data
        connection.close()


@pytest.mark.parametrize(("drain_timeout_s", "num_signals"), [(0.2, 1), (60, 2)])
def test_a_drain_that_takes_too_long_ends_with_an_error_event(
    drain_timeout_s: float, num_signals: int
) -> None:
    runner = FakeRunner()
    runner.step_s = 0.05
    with running_server(runner=runner, drain_timeout_s=drain_timeout_s) as server:
        body = {**ASK, "max_tokens": 500, "ignore_eos": True, "stream": True}
        connection = server.raw(post_bytes(CHAT, json.dumps(body).encode()))
        wait_for(lambda: server.engine.stats().output_tokens_total > 0)
        for _ in range(num_signals):
            server.server.handle_exit(signal.SIGTERM, None)
        data = b""
        while part := connection.recv(65536):
            data += part
        assert b"engine was closed" in data
        assert data.count(b"data: [DONE]") == 1
        connection.close()
