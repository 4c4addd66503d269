"""Seconds of a setup's loads, and what a user of it would see: predicted from ceilings and what was measured.

In: a Setup, ceilings (of a stored profile or measured now), the seconds measured of the present setup. Out:
seconds per group of operators, Figures. A remedy is predicted as measured x predicted ratio, group by group,
so what the cost model gets wrong about this machine it gets wrong on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from narrows.diagnose.setup import LOADS, Load, Setup, operators, read_bytes, steps_of
from narrows.errors import InvalidConfig
from narrows.machine.profile import MachineProfile
from narrows.models.step_time import Ceilings, Rates, cached_share, op_seconds
from narrows.report import Figures

# One thread waits for nobody; the rates of packed weights were fitted to two, who do (docs/growth.md).
ALONE: Final = 0.88
OUTSIDE: Final = "outside"  # of the operators: marshalling, waking threads
Seconds = Mapping[str, float]


class CeilingsSource(Protocol):
    """What the machine does with so many threads over so many bytes."""

    @property
    def cache_bytes(self) -> int: ...

    def at(self, threads: int, num_bytes: int) -> tuple[float, float]:
        """(GB/s, GMAC/s)."""


@dataclass(frozen=True, slots=True)
class ProfileCeilings:
    """Of a stored profile; between cache and memory by the share of the bytes that a cache keeps."""

    profile: MachineProfile

    @property
    def cache_bytes(self) -> int:
        return max((level.size_bytes for level in self.profile.caches), default=0)

    def at(self, threads: int, num_bytes: int) -> tuple[float, float]:
        curve = self.curve(threads)
        return curve.at(threads, num_bytes)

    def curve(self, threads: int) -> CurveCeilings:
        """Of so many threads; InvalidConfig where the profile lacks a ceiling."""
        profile = self.profile
        dram = _memory_rate(profile, threads)
        if dram is None or not profile.peaks:
            raise InvalidConfig(
                "the machine's bandwidth or peak is not known "
                f"({'; '.join(profile.unknown.values()) or 'no reason given'}); run: narrows machine"
            )
        # Caches and peaks are measured with all threads; fewer reach a proportional part.
        part = min(1.0, threads / max(1, profile.cores.threads))
        last = max(profile.caches, key=lambda level: level.size_bytes, default=None)
        cached = dram if last is None or last.gb_per_s is None else last.gb_per_s * part
        peak = profile.peaks[0].int8_gmac_per_s * part
        return CurveCeilings(max(cached, dram), dram, peak, self.cache_bytes)


@dataclass(frozen=True, slots=True)
class CurveCeilings:
    """Two bandwidths and what lies between them, by the share of the bytes that the last cache keeps."""

    cache_gb_per_s: float
    dram_gb_per_s: float
    gmac_per_s: float
    cache_bytes: int

    def at(self, threads: int, num_bytes: int) -> tuple[float, float]:
        """Of any number of threads: the curve was made for one."""
        share = cached_share(num_bytes, self.cache_bytes)
        return 1 / (share / self.cache_gb_per_s + (1 - share) / self.dram_gb_per_s), self.gmac_per_s


def _memory_rate(profile: MachineProfile, threads: int) -> float | None:
    """GB/s of as many threads, or of the most that were measured and are not more."""
    found = profile.dram_with(threads)
    return None if found is None else found[1]


def waiting(threads: int, weights: str) -> float:
    """Of the seconds that the rates give, what so many threads take over weights of this kind."""
    return ALONE if threads == 1 and weights in ("q8", "q4") else 1.0


class CostModel:
    """models/step_time.py over a source of ceilings."""

    def __init__(self, ceilings: CeilingsSource, rates: Rates | None = None) -> None:
        self.ceilings = ceilings
        self.rates = rates or Rates()

    def near(self, setup: Setup, load: Load) -> Ceilings:
        """The ceilings that hold for a load."""
        num_bytes = read_bytes(setup, load)
        gb_per_s, gmac_per_s = self.ceilings.at(setup.threads, num_bytes)
        return Ceilings(
            gb_per_s, gmac_per_s, setup.threads, cached_share(num_bytes, self.ceilings.cache_bytes)
        )

    def seconds(self, setup: Setup, load: Load) -> dict[str, float]:
        """By group, of one unit; with OUTSIDE."""
        near = self.near(setup, load)
        share = waiting(setup.threads, setup.recipe.weights)
        found: dict[str, float] = {OUTSIDE: self.rates.step_s * len(steps_of(setup, load))}
        for op, count in operators(setup, load):
            found[op.group] = found.get(op.group, 0.0) + share * count * op_seconds(op, near, self.rates)
        return found


@dataclass(frozen=True, slots=True)
class Present:
    """The setup as it is and what was measured of it. Without `loads` (a bare config) all is arithmetic."""

    setup: Setup
    loads: Mapping[Load, Seconds]  # seconds of a unit by group, with OUTSIDE
    host_s: float = 0.0  # of the engine around a step
    request_s: float = 0.0  # of a request before its first step: its tokenizer
    sampling_s: float = 0.0  # a step's drawing beyond taking the best token


def same_kernels(now: Setup, then: Setup, load: Load) -> set[str]:
    """Groups that the same kernels work for in both setups."""
    before, after = ({op.group: op.format for op, _ in operators(setup, load)} for setup in (now, then))
    same: set[str] = {group for group, kind in after.items() if before.get(group) == kind}
    if load != "decode" and now.int8_attention != then.int8_attention:
        same.discard("attention")
    return same


class Predictor:
    """Predicts other setups from the present one."""

    def __init__(self, model: CostModel, present: Present) -> None:
        self.model = model
        self.present = present

    def seconds(self, setup: Setup, load: Load) -> dict[str, float]:
        """By group, of one unit: measured x predicted ratio where something was measured.

        A group whose matrices change their format is another kernel's work: what this one's predictions are
        off by says nothing of the other's.
        """
        predicted = self.model.seconds(setup, load)
        measured = self.present.loads.get(load)
        if measured is None:
            return predicted
        now = self.model.seconds(self.present.setup, load)
        steps = len(steps_of(setup, load)) / len(steps_of(self.present.setup, load))
        same = same_kernels(self.present.setup, setup, load)
        found = {
            group: measured[group] * seconds / now[group]
            if now.get(group) and group in measured and group in same
            else seconds
            for group, seconds in predicted.items()
        }
        found[OUTSIDE] = measured.get(OUTSIDE, 0.0) * steps
        return found

    def total(self, setup: Setup, load: Load) -> float:
        return sum(self.seconds(setup, load).values())

    def figures(self, setup: Setup) -> Figures:
        """What a user sees where `streams` requests are always under way."""
        host = self.present.host_s + self.present.sampling_s
        units = {load: self.total(setup, load) for load in LOADS}
        return compose(setup, units, host_s=host, request_s=self.present.request_s)


def compose(
    setup: Setup, units: Mapping[Load, float], *, host_s: float = 0.0, request_s: float = 0.0
) -> Figures:
    """Figures of a closed loop of `streams` requests from the seconds of its loads.

    While one request reads its prompt in chunks the others get a token with each: a cycle in which every
    stream is served once is streams x chunks mixed steps, and decode steps for the tokens that are left.
    """
    streams, output = setup.streams, setup.output
    decode_s = units["decode"] + host_s
    if streams == 1:
        reading_s, stall_s = units["prefill"] + host_s * setup.prompt_steps, 0.0
        cycle_s = reading_s + (output - 1) * decode_s
        tpot_s = decode_s
    else:
        mixed_s = units["mixed"] + host_s
        reading_s, stall_s = setup.prompt_steps * mixed_s, mixed_s
        # The step that ends a prompt draws its first token.
        left = max(0.0, output - 1 - setup.prompt_steps * (streams - 1))
        cycle_s = streams * reading_s + left * decode_s
        tpot_s = (cycle_s - reading_s) / (output - 1) if output > 1 else decode_s
    tokens_per_s = streams * output / cycle_s
    return Figures(
        ttft_s=reading_s + request_s,
        tpot_s=tpot_s,
        tokens_per_s=tokens_per_s,
        memory_bytes=setup.memory_bytes,
        machine_s_per_1k=1000 / tokens_per_s,
        stall_s=stall_s,
    )


def with_hosts(figures: Figures, hosts: int) -> Figures:
    """Replicas: more of all tokens, nothing faster for one stream."""
    return replace(
        figures, tokens_per_s=hosts * figures.tokens_per_s, memory_bytes=hosts * figures.memory_bytes
    )
