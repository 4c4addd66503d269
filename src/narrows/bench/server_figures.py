"""What the server says of the same load, beside what the client saw.

In: /metrics before and after a phase, and the figures in the answers. Out: Checks: both values, and whether
they differ by more than a few percent. Known names: Narrows, vLLM, SGLang, llama.cpp, TGI. Others are left
out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from narrows.bench.client import fetch
from narrows.bench.exchange import Endpoint, ExchangeFailed
from narrows.bench.latency import latency_of
from narrows.bench.record import Record

MAX_DIFFERENCE = 0.05
# Below these, sockets and schedulers explain a difference.
MIN_DIFFERENCE_S = {"TTFT": 2e-3, "TPOT": 1e-4}
COUNTERS = {
    "output tokens": (
        "narrows_generation_tokens_total",
        "vllm:generation_tokens_total",
        "sglang:generation_tokens_total",
        "llamacpp:tokens_predicted_total",
        "tgi_request_generated_tokens_sum",
    ),
    "prompt tokens": (
        "narrows_prompt_tokens_total",
        "vllm:prompt_tokens_total",
        "sglang:prompt_tokens_total",
        "tgi_request_input_length_sum",
    ),
}
MEANS = {
    "TTFT": (
        "narrows_time_to_first_token_seconds",
        "vllm:time_to_first_token_seconds",
        "sglang:time_to_first_token_seconds",
    ),
    "TPOT": ("narrows_time_per_output_token_seconds", "vllm:request_time_per_output_token_seconds"),
}
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Check:
    """`what` by the client and by the server; in seconds where `is_time`. `source`: a metric's name, or
    "answers".
    """

    what: str
    client: float
    server: float
    is_time: bool
    source: str
    differs: bool
    note: str = ""


async def scrape(endpoint: Endpoint, base_path: str) -> dict[str, float]:
    """Every sample of /metrics, summed over labels; empty where there is none to read."""
    path = base_path.removesuffix("/v1") + "/metrics"
    try:
        status, body = await fetch(endpoint, "GET", path)
    except ExchangeFailed:
        return {}
    return parse_samples(body.decode(errors="replace")) if status == 200 else {}


def parse_samples(text: str) -> dict[str, float]:
    """Prometheus text format 0.0.4, values only. Histogram buckets are left out; lines of other forms too."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match is None or match[1].endswith("_bucket"):
            continue
        try:
            found[match[1]] = found.get(match[1], 0.0) + float(match[2])
        except ValueError:
            continue
    return found


def compare(
    records: Sequence[Record], before: Mapping[str, float], after: Mapping[str, float]
) -> tuple[Check, ...]:
    """Checks of all that both sides know. Empty where the server tells nothing."""
    delta = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return (*_counted(records, delta), *_histograms(records, delta), *_answers(records))


def _counted(records: Sequence[Record], delta: Mapping[str, float]) -> list[Check]:
    ours = {
        "output tokens": sum(r.num_output or len(r.pieces) for r in records),
        "prompt tokens": sum(r.num_prompt or 0 for r in records),
    }
    note = "failed and interrupted answers count for the server" if any(not r.is_ok for r in records) else ""
    found = []
    for what, names in COUNTERS.items():
        name = next((name for name in names if name in delta), None)
        if name is not None and ours[what] > 0:
            server = delta[name]
            differs = abs(server - ours[what]) > MAX_DIFFERENCE * ours[what]
            why = note or ("did others use this server?" if server > ours[what] else "")
            found.append(Check(what, float(ours[what]), server, False, name, differs, why if differs else ""))
    return found


def _histograms(records: Sequence[Record], delta: Mapping[str, float]) -> list[Check]:
    """Means over the same requests: a histogram's sum / count against the client's mean."""
    latencies = [latency for record in records if (latency := latency_of(record)) is not None]
    ours = {
        "TTFT": [one.ttft_s for one in latencies],
        "TPOT": [one.tpot_s for one in latencies if one.tpot_s is not None],
    }
    found = []
    for what, names in MEANS.items():
        name = next((name for name in names if delta.get(f"{name}_count", 0) > 0), None)
        if name is not None and ours[what]:
            server_s = delta[f"{name}_sum"] / delta[f"{name}_count"]
            found.append(_time_check(f"{what}, mean", float(np.mean(ours[what])), server_s, name))
    return found


def _answers(records: Sequence[Record]) -> list[Check]:
    """Answer by answer, where each says how long it took: the median of each side."""
    found = []
    for key, what in (("ttft", "TTFT"), ("tpot", "TPOT")):
        pairs = []
        for record in records:
            latency = latency_of(record)
            if latency is None or record.server_ms is None or key not in record.server_ms:
                continue
            client_s = latency.ttft_s if key == "ttft" else latency.tpot_s
            if client_s is not None:
                pairs.append((client_s, record.server_ms[key] / 1e3))
        if pairs:
            client_s, server_s = (float(np.median(side)) for side in zip(*pairs, strict=True))
            found.append(_time_check(f"{what}, median", client_s, server_s, "answers"))
    return found


def _time_check(what: str, client_s: float, server_s: float, source: str) -> Check:
    gap_s = client_s - server_s
    differs = abs(gap_s) > max(MAX_DIFFERENCE * server_s, MIN_DIFFERENCE_S[what[:4]])
    note = ""
    if differs:
        note = (
            "network, HTTP and tokenizing lie outside the server's figure"
            if gap_s > 0
            else "the server counts time that the client does not see"
        )
    return Check(what, client_s, server_s, True, source, differs, note)
