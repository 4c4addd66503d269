"""The experiment: part after part within its share of the time; what cannot be measured says why.

In: an Asker and how many streams matter. Out: Seen, whatever happens to the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from narrows.diagnose.outside.alone import lengths_for, see_decode, see_lengths, see_prefix
from narrows.diagnose.outside.ask import Asker
from narrows.diagnose.outside.crowd import see_cancel, see_levels
from narrows.diagnose.outside.fits import fit
from narrows.diagnose.outside.meeting import see_meeting
from narrows.diagnose.outside.seen import Seen

# Shares of the time. What a part leaves over goes to the later ones.
SHARES: Final = {
    "prompt lengths": 0.28,
    "known prefixes": 0.08,
    "answers alone": 0.14,
    "a prompt beside an answer": 0.15,
    "many at once": 0.25,
    "cancelling": 0.10,
}
PARTS: Final = tuple(SHARES)
ENDINGS: Final = {"failing": "the server only failed", "time": "the time was over", "": "interrupted"}
TOKENS: Final = (8, 32)  # of an answer in a crowd
SERVICES: Final = 40  # answers that the crowds take, if the server serves one at a time
MOST: Final = 16
Tell = Callable[[str], None]


class Experiment:
    """`seen` grows part by part: it holds what was measured until then when something ends it."""

    def __init__(self, asker: Asker, *, streams: int, tell: Tell) -> None:
        self._asker = asker
        self._most = min(64, max(MOST, streams))
        self._tell = tell
        self._unmeasured: dict[str, str] = {}
        self._tokens = TOKENS[0]  # of an answer in a crowd
        self.seen = Seen()

    async def run(self) -> Seen:
        steps = (self._lengths, self._prefix, self._decode, self._meeting, self._levels, self._cancel)
        for part, step in zip(PARTS, steps, strict=True):
            if self._asker.is_stopped():
                self._unmeasured[part] = self._ending()
                continue
            self._tell(part)
            await step(part, self._until_s(part))
        connects = [one.connect_s for one in self._asker.records if one.connect_s is not None]
        self.seen = replace(
            self.seen,
            failures=self._asker.failures(),
            connect_s=float(np.median(connects)) if connects else None,
            unmeasured=self._unmeasured,
        )
        return self.seen

    def _ending(self) -> str:
        return ENDINGS[self._asker.ended]

    def _until_s(self, part: str) -> float:
        left = PARTS[PARTS.index(part) :]
        share = SHARES[part] / sum(SHARES[one] for one in left)
        return asyncio.get_running_loop().time() + share * self._asker.remaining_s

    async def _lengths(self, part: str, until_s: float) -> None:
        found = await see_lengths(self._asker, lengths_for(self._asker.server.max_context), until_s)
        self.seen = replace(self.seen, lengths=found.seen, line=fit(found.seen))
        for lengths, why in (
            (found.too_long, "they would take too long; give --seconds more"),
            (found.failing, "the server failed on the first one; are they beyond its context?"),
        ):
            if lengths:
                self._unmeasured[f"prompts of {', '.join(map(str, lengths))} tokens"] = why
        if self.seen.line is None:
            self._unmeasured[part] = "fewer than two lengths were answered"

    async def _prefix(self, part: str, until_s: float) -> None:
        if not self.seen.lengths:
            self._unmeasured[part] = "no prompt was answered"
            return
        longest = self.seen.lengths[-1]
        seen = await see_prefix(self._asker, longest.prompt_tokens, longest.all_s, until_s)
        self.seen = replace(self.seen, prefix=seen)
        if seen is None:
            self._unmeasured[part] = "no repeated prompt was answered"

    async def _decode(self, part: str, until_s: float) -> None:
        if not self.seen.lengths:
            self._unmeasured[part] = "no prompt was answered"
            return
        prompts = [one.prompt_tokens for one in self.seen.lengths]
        ends = [prompts[0], prompts[-1]] if len(prompts) > 1 else prompts
        found = await see_decode(self._asker, ends, self._guessed_tpot_s(), until_s)
        self.seen = replace(self.seen, decode=found)
        if not found:
            self._unmeasured[part] = "no answer of several chunks came"

    def _guessed_tpot_s(self) -> float:
        """From the few tokens behind each prompt; 0: no idea."""
        spans = [
            (one.pieces[-1].at_s - one.pieces[0].at_s) / (len(one.pieces) - 1)
            for one in self._asker.records
            if one.is_ok and len(one.pieces) > 1
        ]
        return float(np.median(spans)) if spans else 0.0

    async def _meeting(self, part: str, until_s: float) -> None:
        if not self.seen.decode or len(self.seen.lengths) < 2:
            self._unmeasured[part] = "answers or prompts alone were not measured"
            return
        first, last = self.seen.lengths[0], self.seen.lengths[-1]
        seen = await see_meeting(
            self._asker,
            short=first.prompt_tokens,
            long=last.prompt_tokens,
            alone_s=last.ttft_s.value,
            first_s=first.ttft_s.value,
            tpot_s=self.seen.decode[0].tpot_s.value,
            gap_s=self.seen.decode[0].gap_s,
            until_s=until_s,
        )
        self.seen = replace(self.seen, meeting=seen)
        if seen is None:
            self._unmeasured[part] = "no answer was under way while a prompt was read"

    async def _levels(self, part: str, until_s: float) -> None:
        if not self.seen.decode:
            self._unmeasured[part] = "answers alone were not measured"
            return
        first = self.seen.lengths[0]
        tpot_s = max(1e-6, self.seen.decode[0].tpot_s.value)
        spare_s = (until_s - asyncio.get_running_loop().time()) / SERVICES - first.ttft_s.value
        least, most = TOKENS
        tokens = min(most, max(least, int(spare_s / tpot_s)))
        found = await see_levels(
            self._asker, prompt=first.prompt_tokens, tokens=tokens, most=self._most, until_s=until_s
        )
        self._tokens = tokens
        self.seen = replace(self.seen, levels=found)
        if not found:
            self._unmeasured[part] = self._ending()

    async def _cancel(self, part: str, until_s: float) -> None:
        seen = None
        if self.seen.levels:
            seen = await see_cancel(
                self._asker,
                self.seen.levels,
                prompt=self.seen.lengths[0].prompt_tokens,
                tokens=self._tokens,
            )
        self.seen = replace(self.seen, cancel=seen)
        if seen is None:
            self._unmeasured[part] = "no answer came to compare with"
