"""How exact `narrows bench` measures: its figures beside the stamps of a scripted server on a real socket.

The server runs in a process of its own, sends chunks at known times (steady, stalling, several tokens in a
chunk) and stamps each with CLOCK_MONOTONIC, the clock of the client. An error is the client's figure minus
the one that follows from those stamps, and counts as within bounds up to 2 ms or 2 %, whichever is more.
Prints a table per case and appends a JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from narrows.bench.arrivals import arrival_times
from narrows.bench.client import Client, Target, fetch
from narrows.bench.clock import new_loop
from narrows.bench.exchange import Endpoint
from narrows.bench.fake import MODEL, Script, ScriptedServer
from narrows.bench.latency import latency_of
from narrows.bench.load import Load
from narrows.bench.prompts import Prompt
from narrows.bench.record import Record
from narrows.bench.workload import Planned

BOUND_S, BOUND_SHARE = 2e-3, 0.02


def script_of(request: Mapping[str, Any], number: int) -> Script:
    """Even requests: one token a chunk, 40 of them, with stalls. Odd ones: 1 to 5 tokens a chunk, counted."""
    draw = random.Random(number)
    first_s = draw.choice((0.02, 0.1, 0.4))
    gap_s = draw.choice((0.005, 0.02, 0.05))
    chunks = [(first_s, 1)]
    for i in range(39):
        stall_s = 0.15 if i % 13 == 12 else 0.0
        chunks.append((gap_s + stall_s, 1 if number % 2 == 0 else draw.randint(1, 5)))
    return Script(tuple(chunks), says_counts=number % 2 == 1)


def serve(pipe: Connection) -> None:
    """The server's process: until the pipe says so."""

    async def run() -> None:
        async with ScriptedServer(script_of).running() as server:
            pipe.send(server.url)
            while not pipe.poll():
                await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


async def measure(
    url: str, rate: float, num_requests: int, seed: int
) -> dict[str, list[tuple[float, float]]]:
    """(client's, from stamps) of each figure, in seconds."""
    host, port = url.removeprefix("http://").split(":")
    endpoint = Endpoint(host, int(port))
    target = Target(endpoint, "/v1", MODEL, "chat", {}, 60.0)
    offsets: list[float] = []

    def make(began_s: float) -> Client:
        offsets.append(began_s)
        return Client(target, began_s=began_s)

    load = Load(make, stop=asyncio.Event(), on_record=lambda record: None)
    times = arrival_times("poisson", rate, num_requests=num_requests, duration_s=None, seed=seed)
    before = len(await stamps_of(endpoint))
    plan = [Planned(i, Prompt.of_text(f"request {i}"), 40, None, at_s) for i, at_s in enumerate(times)]
    phase = await load.open_loop("accuracy", plan)
    stamps = (await stamps_of(endpoint))[before:]
    return pair(phase.records, stamps, offsets[0])


async def stamps_of(endpoint: Endpoint) -> list[dict[str, Any]]:
    _, body = await fetch(endpoint, "GET", "/stamps")
    return list(json.loads(body)["stamps"])


def pair(
    records: Sequence[Record], stamps: Sequence[Mapping[str, Any]], began_s: float
) -> dict[str, list[tuple[float, float]]]:
    """Requests are matched by the number in their prompt."""
    found: dict[str, list[tuple[float, float]]] = {"TTFT": [], "TPOT": [], "ITL": [], "E2E": []}
    by_prompt = {stamp["request"]["messages"][0]["content"]: stamp for stamp in stamps}
    for record in records:
        assert record.is_ok, record.detail
        stamp = by_prompt[f"request {record.index}"]
        latency = latency_of(record)
        assert latency is not None
        assert len(record.pieces) == len(stamp["sent_s"])
        sent = [at_s - began_s for at_s in stamp["sent_s"]]
        found["TTFT"].append((latency.ttft_s, sent[0] - record.intended_s))
        found["E2E"].append((latency.e2e_s, sent[-1] - record.intended_s))
        if latency.tpot_s is not None:
            found["TPOT"].append((latency.tpot_s, (sent[-1] - sent[0]) / (latency.num_tokens - 1)))
        single = [piece.tokens in (None, 1) for piece in record.pieces[1:]]
        truth = [
            later - earlier for (earlier, later), is_one in zip(pairwise(sent), single, strict=True) if is_one
        ]
        assert len(truth) == len(latency.itl_s)
        found["ITL"] += list(zip(latency.itl_s, truth, strict=True))
    return found


def figures(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Errors in milliseconds and the share within bounds."""
    client, truth = np.asarray(pairs).T
    errors = client - truth
    within = np.abs(errors) <= np.maximum(BOUND_S, BOUND_SHARE * truth)
    median_error = abs(float(np.median(client) - np.median(truth)))
    found = {
        "count": len(pairs),
        "median_ms": float(np.median(errors)) * 1e3,
        "p99_ms": float(np.percentile(np.abs(errors), 99)) * 1e3,
        "max_ms": float(np.abs(errors).max()) * 1e3,
        "share_within": float(within.mean()),
        "error_of_p50_ms": median_error * 1e3,
        "error_of_p99_ms": abs(float(np.percentile(client, 99) - np.percentile(truth, 99))) * 1e3,
    }
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[5, 20, 60], help="requests per second")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    process.start()
    results = []
    try:
        url = ours.recv()
        for rate in arguments.rates:
            pairs: dict[str, list[tuple[float, float]]] = {}
            for seed in range(arguments.rounds):
                with asyncio.Runner(loop_factory=new_loop) as runner:
                    one = runner.run(measure(url, rate, arguments.requests, seed))
                for name, found in one.items():
                    pairs.setdefault(name, []).extend(found)
            print(f"\n{rate:g} requests/s, {arguments.rounds} rounds of {arguments.requests}; errors in ms")
            print(f"{'':<6}{'n':>7}{'median':>9}{'p99':>9}{'max':>9}{'of p50':>9}{'of p99':>9}{'within':>9}")
            for name, found in pairs.items():
                row = figures(found)
                results.append({"rate": rate, "figure": name, **row})
                print(
                    f"{name:<6}{row['count']:>7}{row['median_ms']:>9.3f}{row['p99_ms']:>9.3f}{row['max_ms']:>9.3f}"
                    f"{row['error_of_p50_ms']:>9.3f}{row['error_of_p99_ms']:>9.3f}{row['share_within']:>15.2%}"
                )
    finally:
        ours.send("stop")
        process.join(10)
    row = {
        "time": int(time.time()),
        "question": "bench_accuracy",
        "rounds": arguments.rounds,
        "cases": results,
    }
    target = Path(__file__).parent / "results" / "bench_accuracy.jsonl"
    target.parent.mkdir(exist_ok=True)
    with target.open("a") as out:
        out.write(json.dumps(row) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
