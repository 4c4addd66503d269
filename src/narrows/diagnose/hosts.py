"""Several hosts and a measured link, by arithmetic: replicas, tensor parallel, pipeline parallel.

In: a setup's predicted seconds, an alpha-beta link. Out: Figures. Nothing of this is run by this version; the
link's two numbers are all that is known of the network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from narrows.diagnose.predict import OUTSIDE, Predictor, compose, with_hosts
from narrows.diagnose.setup import LOADS, Load, Setup, steps_of
from narrows.machine.profile import Link
from narrows.report import Figures

ROW_BYTES: Final = 4  # of a float32 activation
REDUCES: Final = 2  # a layer: after attention, after the MLP


def all_reduce_seconds(setup: Setup, link: Link, hosts: int, *, rows: int) -> float:
    """A step's all-reduces in a ring: 2 (k - 1) messages of a k-th of the rows each."""
    size = rows * setup.spec.hidden * ROW_BYTES / hosts
    each = 2 * (hosts - 1) * (link.latency_s + size / (link.gb_per_s * 1e9))
    return REDUCES * len(setup.spec.layers) * each


def hand_over_seconds(setup: Setup, link: Link, *, rows: int) -> float:
    """Hidden rows from one pipeline stage to the next."""
    return link.latency_s + rows * setup.spec.hidden * ROW_BYTES / (link.gb_per_s * 1e9)


def tensor_parallel(predictor: Predictor, setup: Setup, link: Link, hosts: int) -> Figures:
    """Every host computes a k-th of every operator, then all add up."""
    units = {load: _split_seconds(predictor, setup, load, link, hosts) for load in LOADS}
    present = predictor.present
    figures = compose(setup, units, host_s=present.host_s + present.sampling_s, request_s=present.request_s)
    return replace(figures, machine_s_per_1k=hosts * figures.machine_s_per_1k)


def _split_seconds(predictor: Predictor, setup: Setup, load: Load, link: Link, hosts: int) -> float:
    seconds = predictor.seconds(setup, load)
    inside = sum(value for group, value in seconds.items() if group != OUTSIDE)
    said = sum(
        all_reduce_seconds(setup, link, hosts, rows=sum(chunk.num_tokens for chunk in step))
        for step in steps_of(setup, load)
    )
    return inside / hosts + seconds.get(OUTSIDE, 0.0) + said


def pipeline_parallel(predictor: Predictor, setup: Setup, link: Link, hosts: int) -> Figures:
    """Every host has a k-th of the layers: k batches are under way, one stream is no faster."""
    units: dict[Load, float] = {}
    for load in LOADS:
        said = sum(
            (hosts - 1) * hand_over_seconds(setup, link, rows=sum(chunk.num_tokens for chunk in step))
            for step in steps_of(setup, load)
        )
        units[load] = predictor.total(setup, load) + said
    present = predictor.present
    host_s = present.host_s + present.sampling_s
    figures = compose(setup, units, host_s=host_s, request_s=present.request_s)
    return replace(with_hosts(figures, hosts), memory_bytes=figures.memory_bytes)


def replicas(predictor: Predictor, setup: Setup, hosts: int) -> Figures:
    return with_hosts(predictor.figures(setup), hosts)
