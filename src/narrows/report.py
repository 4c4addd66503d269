"""What a diagnosis found, as values and JSON: where the time goes, why, and what each remedy would bring.

Written by diagnose/, read by the terminal table, the page, and whoever plans a compression from it. Seconds,
bytes and floating point operations throughout; knows no model, no machine and no formatting.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Final, Literal

from narrows.errors import InvalidConfig

REPORT_VERSION: Final = 1
QUIET: Final = 0.85  # of the CPU time asked for: with less of it others were on the cores

Ceiling = Literal["memory", "compute", "latency", "overhead"]
Source = Literal["measured", "predicted"]
Target = Literal["ttft", "tpot", "throughput", "memory", "cost"]


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """The ceilings that the times were laid against, measured near in time where `source` says so."""

    cpu: str
    isa: str
    threads: int
    gb_per_s: float  # reads of as many bytes as a decode step reads
    gmac_per_s: float  # multiply-adds (1e9) of numbers in mac_format
    memory_bytes: int
    source: Source  # predicted: from a stored profile
    unknown: Mapping[str, str] = field(default_factory=dict)  # what could not be measured: why
    mac_format: str = "int8"


@dataclass(frozen=True, slots=True)
class ModelSummary:
    name: str
    family: str
    parameters: int  # of the matrices
    layers: int
    weights: str  # how they are packed, in words
    weight_bytes: int  # held in memory
    step_weight_bytes: int  # read by a step
    kv_bytes_per_token: int
    max_context: int
    missing: tuple[str, ...] = ()  # what a bare config.json cannot tell


@dataclass(frozen=True, slots=True)
class WorkloadSummary:
    """Medians of the workload, after its lengths were fitted to the context."""

    name: str
    prompt_tokens: int
    output_tokens: int
    streams: int
    requests_per_s: float | None  # None: not said
    num_requests: int  # that the medians were taken of; 0: a preset
    scaled: float = 1.0  # lengths were multiplied by this to fit the context


@dataclass(frozen=True, slots=True)
class OpReport:
    """One group of operators of a phase, over one unit of it."""

    group: str
    seconds: float
    share: float  # of the phase
    read_bytes: int
    flops: int
    ceiling: Ceiling  # the nearest one; overhead: none is near
    fraction: float  # of that ceiling; of the nearest one where `ceiling` is overhead


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """A prompt, a decode step of all streams, or a step that reads a chunk of a prompt beside them.

    "unit": whatever a torch module of the user's does as one unit of work.
    """

    name: Literal["prefill", "decode", "mixed", "unit"]
    seconds: float  # of the unit
    tokens: int  # rows of it
    streams: int
    context: int  # tokens in the pages before it
    outside_s: float  # of the unit, beyond the operators: marshalling and waking threads
    source: Source
    ops: tuple[OpReport, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a user of the model sees under the workload. A unit of work without tokens counts as one token."""

    ttft_s: float
    tpot_s: float
    tokens_per_s: float  # of all streams, prompts read in between
    memory_bytes: int  # weights and the pages of all streams
    machine_s_per_1k: float  # seconds of all machines for 1,000 output tokens: cost without a price
    stall_s: float  # the longest wait for a next token while another prompt is read


@dataclass(frozen=True, slots=True)
class Verdict:
    """One reason, in words. `share` is of `of`: a request's time, or the first request's after a start."""

    kind: str
    share: float
    of: Literal["request", "start"]
    words: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quality:
    """What a remedy costs in quality, and who says so."""

    words: str
    source: str


@dataclass(frozen=True, slots=True)
class Remedy:
    """`gain` on the target: how many times better; its interval comes from the known error of predictions.

    `is_bound`: unknown until measured; `gain` is the most that it could be, and `figures` are those.
    """

    kind: str
    words: str
    gain: float
    low: float
    high: float
    interval_source: str
    figures: Figures
    quality: Quality
    command: str | None  # None: not available in this version
    notes: tuple[str, ...] = ()
    is_bound: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A remedy applied: what was predicted and what was measured, seconds or tokens per second.

    `quiet`: of the CPU time that the threads wanted while it was measured, the share they got; far below 1
    something else was on the cores, and the figures say as much about that.
    """

    remedy: str
    what: str
    predicted: float
    measured: float
    unit: str
    quiet: float = 1.0

    @property
    def is_quiet(self) -> bool:
        return self.quiet >= QUIET

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Beside:
    """One figure of a service as it is, and of the same model under Narrows.

    `predicted` None: Narrows could not run it. `error`: 9 in 10 predictions were off by at most this share.
    `measured` None: not run. Units: s, tokens/s, bytes.
    """

    what: str
    unit: str
    present: float
    predicted: float | None
    error: float
    measured: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    version: int
    made_at: str  # ISO 8601, UTC
    target: Target
    machine: MachineSummary
    model: ModelSummary
    workload: WorkloadSummary
    phases: tuple[PhaseReport, ...]
    now: Figures
    verdicts: tuple[Verdict, ...]  # by share, largest first
    remedies: tuple[Remedy, ...]  # by gain, largest first
    notes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    what_if: Mapping[str, Any] | None = None  # coefficients of the cost model, for the page's sliders
    present: str = "Narrows"  # what was timed: or transformers on torch, or a torch module
    beside: tuple[Beside, ...] = ()  # where something else than Narrows was timed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """A report of this version; InvalidConfig names what is missing, unknown or of another type."""
        version = values.get("version")
        if version != REPORT_VERSION:
            raise InvalidConfig(f"the report is of version {version!r}; this Narrows reads {REPORT_VERSION}")
        return typing.cast(Report, _read(cls, values, "report"))


def _read(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    """`value` of JSON as the annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _read_dataclass(typing.cast(type, kind), value, where)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _read(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InvalidConfig(f"{where} must be a list")
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise InvalidConfig(f"{where} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
        return value
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InvalidConfig(f"{where} must be an object")
        return dict(value)
    wanted = (int, float) if kind is float else (kind,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise InvalidConfig(f"{where} is {value!r}; it must be of type {kind.__name__}")
    return value


def _read_dataclass(kind: type, value: Any, where: str) -> Any:  # noqa: ANN401
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"{where} must be an object")
    hints = typing.get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    if unknown := sorted(set(value) - known):
        raise InvalidConfig(f"{where} has fields that no report has: {', '.join(unknown)}")
    if missing := sorted(known - set(value)):
        raise InvalidConfig(f"{where} lacks {', '.join(missing)}")
    return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in known})
