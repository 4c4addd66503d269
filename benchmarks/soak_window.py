"""One window of soak.py: load, a pause, a look at the idle server, the same request again.

In: a running server's process and its clients. Out: Window, one row; judge() says what a run's windows show.
Knows no files and no command line.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trend
from soak_load import Asker, Load, Sizes
from soak_vitals import Vitals, read_metrics, read_vitals

SETTLE_S = 20.0  # after the last answer; requests whose clients left must be gone by then
PROBE_TOKENS = 48
PROBE_S = 1.0  # at least, and at least LEAST_PROBES answers
LEAST_PROBES = 5
UNDER_WAY = ("kv_blocks_used", "requests_running", "requests_waiting")


@dataclass(frozen=True, slots=True)
class Window:
    """Speeds are of the load but for the probe's; what is held, of the idle server after it."""

    minute: float  # of the end of the load, since the first one's beginning
    requests: int
    tokens_per_s: float
    tokens_per_cpu_s: float  # of the server's CPU time: what neighbours on the cores hardly change
    probe_tokens_per_s: float  # one stream alone, median
    probe_answer: int  # which of the answers the probe has had; 0: the first
    anonymous_mb: float
    file_mb: float
    num_fds: int
    num_threads: int
    kv_blocks_used: int
    requests_left: int  # running or waiting
    busy_anonymous_mb: float  # at the end of the load
    busy_fds: int
    preemptions: int
    drafted: int
    accepted: int


# Field -> what may change from the first window to the last, and in which direction it is worse (-1: down).
# Speeds and memory as a share of the mean; descriptors and threads in numbers.
SERIES: dict[str, tuple[float, int]] = {
    "tokens_per_s": (0.05, -1),
    "tokens_per_cpu_s": (0.05, -1),
    "probe_tokens_per_s": (0.05, -1),
    "anonymous_mb": (0.02, 1),
    "file_mb": (0.02, 1),
    "num_fds": (1, 1),
    "num_threads": (1, 1),
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one series. `tolerance` is in the values' own unit."""

    name: str
    trend: trend.Trend
    tolerance: float
    worse: int

    @property
    def verdict(self) -> str:
        return self.trend.verdict(self.tolerance)

    @property
    def is_bad(self) -> bool:
        return self.verdict == trend.DRIFT and self.trend.change * self.worse > 0

    def text(self) -> str:
        found = self.trend
        share = f"{found.change / found.mean:+.1%}" if found.mean else "-"
        return (
            f"{self.name:20} {self.verdict:7} mean {found.mean:9.3f}  change {found.change:+9.3f} ({share}) "
            f"95 %: {found.low:+.3f} to {found.high:+.3f}; tolerated {self.tolerance:.3f}"
        )


def judge(windows: Sequence[Window]) -> list[Judgement]:
    """A line through every series; ValueError where the windows are too few."""
    minutes = [window.minute for window in windows]
    judgements = []
    for name, (tolerance, worse) in SERIES.items():
        found = trend.fit(minutes, [float(getattr(window, name)) for window in windows])
        allowed = tolerance if tolerance >= 1 else tolerance * abs(found.mean)
        judgements.append(Judgement(name, found, allowed, worse))
    return judgements


def leaks(windows: Sequence[Window]) -> list[str]:
    """What no noise explains: KV blocks or requests left on an idle server, another answer to the probe."""
    found = []
    for window in windows:
        at = f"minute {window.minute:.1f}:"
        if window.kv_blocks_used or window.requests_left:
            held = f"{window.kv_blocks_used} KV blocks and {window.requests_left} requests"
            found.append(f"{at} {held} left on the idle server")
        if window.probe_answer:
            found.append(f"{at} the probe had another answer than at first")
    return found


class Soak:
    """Measures windows of one server."""

    def __init__(self, *, url: str, pid: int, load: Load, sizes: Sizes) -> None:
        self._url, self._pid, self._load = url, pid, load
        self._asker = Asker(url, sizes, random.Random(0))
        self._began_s = time.monotonic()
        self._answers: list[str] = []

    def window(self, seconds: float, on_second: Callable[[], object]) -> Window:
        asked_before = self._load.tally.total
        before, vitals_before = self._look()
        began_s = time.monotonic()
        self._load.resume()
        while (left_s := began_s + seconds - time.monotonic()) > 0:
            time.sleep(min(1.0, left_s))
            on_second()
        after, busy = self._look()
        load_s, minute = time.monotonic() - began_s, (time.monotonic() - self._began_s) / 60
        self._load.pause()
        idle, vitals = self._settle()
        tokens = after["narrows_generation_tokens_total"] - before["narrows_generation_tokens_total"]
        counts = {
            name: round(idle[f"narrows_{metric}_total"] - before[f"narrows_{metric}_total"])
            for name, metric in (
                ("preemptions", "preemptions"),
                ("drafted", "drafted_tokens"),
                ("accepted", "accepted_tokens"),
            )
        }
        probe_tokens_per_s, probe_answer = self.probe()
        return Window(
            minute=round(minute, 3),
            requests=self._load.tally.total - asked_before,
            tokens_per_s=round(tokens / load_s, 3),
            tokens_per_cpu_s=round(tokens / max(busy.cpu_s - vitals_before.cpu_s, 0.01), 3),
            probe_tokens_per_s=round(probe_tokens_per_s, 3),
            probe_answer=probe_answer,
            anonymous_mb=round(vitals.anonymous_mb, 3),
            file_mb=round(vitals.file_mb, 3),
            num_fds=vitals.num_fds,
            num_threads=vitals.num_threads,
            kv_blocks_used=round(idle["narrows_kv_blocks_used"]),
            requests_left=round(idle["narrows_requests_running"] + idle["narrows_requests_waiting"]),
            busy_anonymous_mb=round(busy.anonymous_mb, 3),
            busy_fds=busy.num_fds,
            **counts,
        )

    def probe(self) -> tuple[float, int]:
        """(median tokens/s of one stream with a prompt of one token, which answer it was)."""
        body = self._asker.body([7], PROBE_TOKENS, temperature=0, ignore_eos=True)
        speeds: list[float] = []
        seen: set[int] = set()
        end_s = time.perf_counter() + PROBE_S
        while len(speeds) < LEAST_PROBES or time.perf_counter() < end_s:
            began_s = time.perf_counter()
            text = self._asker.ask(body)["choices"][0]["text"]
            speeds.append(PROBE_TOKENS / (time.perf_counter() - began_s))
            if text not in self._answers:
                self._answers.append(text)
            seen.add(self._answers.index(text))
        return statistics.median(speeds), max(seen)

    def _look(self) -> tuple[dict[str, float], Vitals]:
        return read_metrics(self._url), read_vitals(self._pid)

    def _settle(self) -> tuple[dict[str, float], Vitals]:
        """Waits until nothing is under way, but not for ever: what stays has leaked."""
        end_s = time.monotonic() + SETTLE_S
        while time.monotonic() < end_s:
            metrics = read_metrics(self._url)
            if not any(metrics[f"narrows_{name}"] for name in UNDER_WAY):
                break
            time.sleep(0.1)
        time.sleep(0.5)  # sockets just closed, threads just ending
        return self._look()
