"""Settings of a training run as frozen values: the model's shape, the optimiser's rates, the run's budget.

Inputs: nothing but numbers. Outputs: dataclasses the other files read.
Does not know where any file lies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The Llama shape; the defaults are the shipped `narrows-stories`."""

    hidden_size: int = 256
    num_layers: int = 5
    intermediate_size: int = 640
    num_heads: int = 8
    num_kv_heads: int = 2
    head_dim: int = 32
    vocab_size: int = 4096
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_positions: int = 1024


@dataclass(frozen=True, slots=True)
class OptimSettings:
    """Peak rates; the schedule multiplies them by a factor in [0, 1]."""

    muon_lr: float = 0.02
    adam_lr: float = 0.004
    weight_decay: float = 0.1
    momentum: float = 0.95
    clip_norm: float = 1.0
    warmup_fraction: float = 0.01
    decay_fraction: float = 0.4


@dataclass(frozen=True, slots=True)
class Stage:
    """From `start` (fraction of the budget) on, rows have `row_tokens` tokens and a step has `rows` rows."""

    start: float
    row_tokens: int
    rows: int


# Short rows first: attention costs less per token there; the last tenth teaches the declared context.
DEFAULT_STAGES = (Stage(0.0, 256, 32), Stage(0.4, 512, 16), Stage(0.9, 1024, 8))


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What the command line decides, plus what tests shrink."""

    minutes: float
    wall_minutes: float | None = None
    shape: ModelShape = ModelShape()
    optim: OptimSettings = OptimSettings()
    stages: tuple[Stage, ...] = DEFAULT_STAGES
    seed: int = 1
    mixture_start: float = 0.0
    use_bf16: bool = True
    use_compile: bool = True
    checkpoint_every_s: float = 180.0
    evaluate_every_s: float = 600.0
    log_every_steps: int = 20
    max_steps: int | None = None

    def stage_at(self, progress: float) -> Stage:
        """The last stage that has begun at `progress`."""
        return [stage for stage in self.stages if stage.start <= progress][-1]

    def mixture_at(self, progress: float) -> float:
        """Where on the way from the start weights to the end weights of the sources `progress` lies."""
        return self.mixture_start + (1.0 - self.mixture_start) * progress


# A finished model goes on at half the rates: high enough to move it, low enough not to undo it, and on a line
# down to zero from the end of the warm-up, because it has had its flat part.
CONTINUED_OPTIM = OptimSettings(muon_lr=0.01, adam_lr=0.002, warmup_fraction=0.02, decay_fraction=0.98)
CONTINUED_MIXTURE_START = 0.7


def continued(settings: RunSettings) -> RunSettings:
    """The settings for going on from a finished model: lower rates, simpler stories, in another order."""
    return replace(
        settings,
        seed=settings.seed + 1,
        optim=CONTINUED_OPTIM,
        mixture_start=CONTINUED_MIXTURE_START,
    )
