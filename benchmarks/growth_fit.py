"""Fits the Rates of models/step_time.py to measured rows: Gauss-Newton on logarithms.

In: rows of growth.py. Out: Rates. A residual is the logarithm of predicted over measured time, of whole units
and of every operator group that takes a noticeable share of one, weighted by that share. Constants that no
row depends on keep their start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
from growth_points import Row, predict, predict_groups

from narrows.models.step_time import Rates

ITERATIONS = 25
NOTICEABLE = 0.02  # of the unit's time: smaller groups are mostly barriers and chance
TOWARDS_START = 0.02  # a weak pull: what hardly matters stays where it was
STEP = 1e-3


def residuals(rows: Sequence[Row], rates: Rates) -> np.ndarray:
    found: list[float] = []
    for row in rows:
        for measured in row.used:
            groups = predict_groups(row.point, measured, rates)
            found.append(np.log(predict(row.point, measured, rates) / measured.seconds))
            for group, seconds in measured.groups.items():
                if seconds > NOTICEABLE * measured.seconds:
                    share = seconds / measured.seconds
                    found.append(share**0.5 * np.log(max(groups[group], 1e-9) / seconds))
    return np.array(found)


def fit(rows: Sequence[Row], start: Rates) -> Rates:
    """The rates nearest to the rows."""
    names = [item.name for item in fields(Rates)]
    origin = np.log([getattr(start, name) for name in names])

    def rates_at(x: np.ndarray) -> Rates:
        return Rates(**dict(zip(names, np.exp(x).tolist(), strict=True)))

    def errors(x: np.ndarray) -> np.ndarray:
        return np.concatenate([residuals(rows, rates_at(x)), TOWARDS_START * (x - origin)])

    x, damping = origin.copy(), 1e-2
    now = errors(x)
    for _ in range(ITERATIONS):
        jacobian = slopes(errors, x, now)
        normal = jacobian.T @ jacobian + damping * np.eye(len(x))
        step = np.clip(np.linalg.solve(normal, -jacobian.T @ now), -0.5, 0.5)
        after = errors(x + step)
        if after @ after < now @ now:
            x, now, damping = x + step, after, damping / 3
        else:
            damping *= 5
        if damping > 1e6:
            break
    return rates_at(x)


def slopes(errors: Callable[[np.ndarray], np.ndarray], x: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Numeric derivatives [residuals, rates]."""
    columns = []
    for i in range(len(x)):
        moved = x.copy()
        moved[i] += STEP
        columns.append((errors(moved) - now) / STEP)
    return np.stack(columns, axis=1)
