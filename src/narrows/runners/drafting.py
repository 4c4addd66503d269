"""Where the engine gets the native drafter from: guesses made of what stood in a text before.

A Drafter belongs to one request; RecentOutputs is shared by those that may see each other's outputs. Knows no
model and no policy: engine/speculation.py decides whether a guess is worth a step's time.
"""

from __future__ import annotations

from narrows._core import Drafter, RecentOutputs

__all__ = ["Drafter", "RecentOutputs"]
