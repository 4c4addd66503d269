"""Coefficients of the cost model for one model and machine: enough to predict other batches, contexts, bits.

In: Findings. Out: plain values for the page, whose script is the same arithmetic as models/costs.py and
models/step_time.py (a test compares them). Nothing is predicted here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any, Final

from narrows.diagnose.candidate import WEIGHTS, weights_setup
from narrows.diagnose.findings import Findings
from narrows.diagnose.predict import CostModel, CurveCeilings, ProfileCeilings, waiting
from narrows.diagnose.setup import LOADS, Setup
from narrows.machine.bandwidth import DRAM_BYTES
from narrows.models.costs import PLANE_ROWS, Chunk, OpCost, step_costs
from narrows.models.sizes import head_shape, kv_kinds, kv_row_bytes

NOW: Final = "now"
LINEARS: Final = 4  # of a layer: qkv, out, up, down
CACHED_PART: Final = 4  # a quarter of the cache: what is read there stays there


def what_if(findings: Findings) -> dict[str, Any]:
    """JSON values; "scale" is measured over predicted, by load and group, 1 where nothing was measured."""
    setup = findings.setup
    curve = curve_of(findings)
    kinds = {NOW: setup} | {
        kind: other for kind in WEIGHTS if (other := weights_setup(findings, kind)).recipe != setup.recipe
    }
    present = findings.predictor.present
    return {
        "rates": asdict(findings.predictor.model.rates),
        "ceilings": {**asdict(curve), "threads": setup.threads},
        "kinds": {kind: _kind(other) for kind, other in kinds.items()},
        "frame": _frame(setup),
        "setup": {
            "streams": setup.streams,
            "prompt": setup.prompt,
            "output": setup.output,
            "chunk": setup.chunk,
            "step_tokens": setup.step_tokens,
            "max_context": setup.spec.max_positions,
            "max_running": findings.max_running,
        },
        "scale": scales(findings, curve),
        "host_s": present.host_s + present.sampling_s,
        "request_s": present.request_s,
        "outside_s": {load: dict(present.loads[load]).get("outside", 0.0) for load in present.loads},
    }


def curve_of(findings: Findings) -> CurveCeilings:
    """Two points of the present threads' bandwidth."""
    source, threads = findings.predictor.model.ceilings, findings.setup.threads
    if isinstance(source, ProfileCeilings):
        return source.curve(threads)
    if isinstance(source, CurveCeilings):
        return source
    cached, gmac_per_s = source.at(threads, source.cache_bytes // CACHED_PART)
    dram, _ = source.at(threads, DRAM_BYTES)
    return CurveCeilings(max(cached, dram), dram, gmac_per_s, source.cache_bytes)


def scales(findings: Findings, curve: CurveCeilings) -> dict[str, dict[str, float]]:
    """Measured over what the curve predicts, by load and group."""
    model = CostModel(curve, findings.predictor.model.rates)
    loads = findings.predictor.present.loads
    found: dict[str, dict[str, float]] = {}
    for load in LOADS:
        predicted = model.seconds(findings.setup, load)
        measured = loads.get(load, {})
        found[load] = {
            group: measured[group] / seconds if group in measured and seconds > 0 else 1.0
            for group, seconds in predicted.items()
        }
    return found


def _kind(setup: Setup) -> dict[str, Any]:
    """The matrices of one row: the costs of more rows are multiples."""
    *layers, head_op = _linears(setup, Chunk(1, 0, 1))
    inner, last = layers[:-LINEARS], layers[-LINEARS:]
    narrowed = _linears(setup, Chunk(2, 0, 1))[-2 - LINEARS : -1]  # keys and values; queries; the others
    attention = _attention(setup)
    found = setup.weights
    head = head_shape(setup.spec, setup.recipe)
    return {
        "weights": setup.recipe.weights,
        "int8_attention": setup.int8_attention,
        "attention": [dict(layer) | {"count": count} for layer, count in Counter(attention[:-1]).items()],
        "last_attention": dict(attention[-1]) | {"count": 1},
        "kv_bytes_per_token": setup.kv_bytes_per_token,
        "waiting": waiting(setup.threads, setup.recipe.weights),
        "memory_bytes": found.packed + found.embedding_rows,
        "row_bytes": head.panel_bytes + head.lower_bytes
        if setup.spec.head is None
        else setup.spec.hidden * 4,
        "linears": [
            *(_linear(op, count) for op, count in Counter(inner).items()),
            _head(setup, head_op),
        ],
        "last_whole": [_linear(op, 1) for op in last],
        "last_narrowed": [_linear(op, 1, logits_only=index > 0) for index, op in enumerate(narrowed)],
    }


def _linears(setup: Setup, chunk: Chunk) -> list[OpCost]:
    ops = step_costs(setup.spec, setup.recipe, (chunk,))
    return [op for op in ops if op.group not in ("attention", "other")]


def _linear(op: OpCost, count: int, *, logits_only: bool = False) -> dict[str, Any]:
    """Per row; `logits_only`: of the rows whose logits are wanted."""
    return {
        "group": op.group,
        "count": count,
        "logits_only": logits_only,
        "format": op.format,
        "group_size": op.group_size,
        "macs": op.macs // op.rows,
        "bytes": op.weight_bytes,
        "activation_bytes": op.activation_bytes // op.rows,
        "stages": op.stages,
    }


def _head(setup: Setup, few: OpCost) -> dict[str, Any]:
    """Of more rows than PLANE_ROWS both planes are read."""
    many = _linears(setup, Chunk(PLANE_ROWS + 1, 0, PLANE_ROWS + 1))[-1]
    return _linear(few, 1, logits_only=True) | {
        "bytes_of_many": many.weight_bytes,
        "stages_of_many": many.stages - 1,  # more than FEW_ROWS
    }


def _attention(setup: Setup) -> list[tuple[tuple[str, int | str], ...]]:
    """What the script needs of each layer, as pairs that can be counted."""
    return [
        (
            ("heads", layer.heads),
            ("kv_heads", layer.kv_heads),
            ("head_dim", layer.head_dim),
            ("window", layer.window),
            ("row_bytes", kv_row_bytes(layer, kv)),
            ("kv", kv),
        )
        for layer, kv in zip(setup.spec.layers, kv_kinds(setup.spec, setup.kv), strict=True)
    ]


def _frame(setup: Setup) -> dict[str, int]:
    return {"hidden": setup.spec.hidden, "vocab": setup.spec.vocab, "layers": len(setup.spec.layers)}
