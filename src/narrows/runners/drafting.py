"""Where the engine gets the native drafter from: guesses made of what stood in a text before.

A Drafter belongs to one request; Chances are those of all of an engine; RecentOutputs is shared by requests
that may know of each other. Knows no model and no policy: engine/speculation.py decides whether a guess is
worth a step's time.
"""

from __future__ import annotations

from narrows._core import Chances, Drafter, RecentOutputs

__all__ = ["Chances", "Drafter", "RecentOutputs"]
