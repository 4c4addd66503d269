"""Remedies that this version cannot apply: smaller models, more hosts, a GPU. By arithmetic.

In: Findings. Out: Candidates; those without a command say that none exists yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from narrows.diagnose.candidate import Candidate, command
from narrows.diagnose.findings import Findings
from narrows.diagnose.gpus import on_gpu
from narrows.diagnose.hosts import pipeline_parallel, replicas, tensor_parallel
from narrows.diagnose.quality import FLOATS, SAME, UNKNOWN
from narrows.models.spec import TransformerSpec

PRUNED: Final = 0.25
LINK_SOURCE: Final = "alpha-beta of the link, ring all-reduce"


def elsewhere(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    yield from _smaller_models(findings)
    yield from _hosts(findings, present)
    yield from _gpus(findings)


def _smaller_models(findings: Findings) -> Iterator[Candidate]:
    spec = findings.setup.spec
    percent = f"{PRUNED:.0%}"
    for kind, words, smaller in (
        ("prune:width", f"prune the MLPs' width by {percent}", _narrower(spec, 1 - PRUNED)),
        ("prune:depth", f"prune {percent} of the layers", _shallower(spec, 1 - PRUNED)),
        (
            "distil",
            "distil to half the layers and half the MLPs' width",
            _narrower(_shallower(spec, 0.5), 0.5),
        ),
    ):
        other = replace(findings.setup, spec=smaller)
        yield Candidate(kind, words, findings.predictor.figures(other), UNKNOWN)


def _narrower(spec: TransformerSpec, share: float) -> TransformerSpec:
    layers = tuple(
        replace(layer, intermediate=max(16, round(layer.intermediate * share / 16) * 16))
        for layer in spec.layers
    )
    return replace(spec, layers=layers)


def _shallower(spec: TransformerSpec, share: float) -> TransformerSpec:
    return replace(spec, layers=spec.layers[: max(1, round(len(spec.layers) * share))])


def _hosts(findings: Findings, present: Mapping[str, str]) -> Iterator[Candidate]:
    hosts, link, setup, predictor = findings.hosts, findings.link, findings.setup, findings.predictor
    if hosts < 2:
        return
    yield Candidate(
        "hosts:replicas",
        f"{hosts} replicas, each on a host of its own",
        replicas(predictor, setup, hosts),
        SAME,
        command(findings, present, {}),
        ("the command runs on every host; a load balancer in front of them is yours",),
    )
    if link is None:
        return
    notes = (f"{link.peer}: {link.latency_s * 1e6:,.3g} us, {link.gb_per_s:.3g} GB/s; {LINK_SOURCE}",)
    for kind, figures in (
        ("tensor", tensor_parallel(predictor, setup, link, hosts)),
        ("pipeline", pipeline_parallel(predictor, setup, link, hosts)),
    ):
        yield Candidate(f"hosts:{kind}", f"{kind} parallel over {hosts} hosts", figures, SAME, notes=notes)


def _gpus(findings: Findings) -> Iterator[Candidate]:
    for gpu in findings.profile.gpus:
        found = on_gpu(findings.predictor, findings.setup, gpu)
        if found is not None:
            figures, notes = found
            yield Candidate("gpu", f"a GPU: {gpu.name}", figures, FLOATS, notes=notes)
