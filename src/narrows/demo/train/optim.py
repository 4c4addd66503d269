"""The two optimisers and the rate schedule: Muon for hidden matrices, AdamW for the embedding and the norms.

Inputs: a model, settings, the run's progress in [0, 1]. Outputs: optimisers with their rates set.
Does not know batches or files.
"""

from __future__ import annotations

import torch
from torch import nn

from narrows.demo.train.config import OptimSettings


def rate_factor(progress: float, settings: OptimSettings) -> float:
    """Trapezoid over the budget: short warm-up, flat, then a line down to zero."""
    warm = min(1.0, (progress + 1e-3) / settings.warmup_fraction)
    down = min(1.0, max(0.0, 1.0 - progress) / settings.decay_fraction)
    return min(warm, down)


class OptimiserPair:
    """Steps both optimisers with one schedule."""

    def __init__(self, model: nn.Module, settings: OptimSettings) -> None:
        self._settings = settings
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
        others = [p for name, p in named if p.dim() != 2 or "embed" in name]
        self._parameters = [p for _, p in named]
        self._muon = torch.optim.Muon(
            matrices, lr=settings.muon_lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self._adam = torch.optim.AdamW(others, lr=settings.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, progress: float) -> None:
        """Clips, sets the rates for `progress`, steps and clears the gradients."""
        factor = rate_factor(progress, self._settings)
        nn.utils.clip_grad_norm_(self._parameters, self._settings.clip_norm)
        rates: tuple[tuple[torch.optim.Optimizer, float], ...] = (
            (self._muon, self._settings.muon_lr),
            (self._adam, self._settings.adam_lr),
        )
        for optimiser, peak in rates:
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        """Both optimisers' states, for a checkpoint."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, dict[str, object]]) -> None:
        """Takes back what `state` returned."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
