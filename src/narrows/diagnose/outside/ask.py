"""Asks the server: one after another, all at once, at times, or cut off midway. Counts what fails.

In: lengths. Out: Phases of bench/load.py. Every prompt is new (`seed` differs from run to run): a prefix
cache must not know a prompt from the part before, or from yesterday.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from narrows.bench.client import Client, Open
from narrows.bench.exchange import Endpoint, open_exchange
from narrows.bench.load import Load, Phase
from narrows.bench.prompts import Prompt
from narrows.bench.record import Record
from narrows.bench.saturation import REFUSED_STATUS
from narrows.bench.server import Server
from narrows.bench.server_figures import COUNTERS, scrape
from narrows.bench.synthetic import text_of_length
from narrows.bench.workload import Planned
from narrows.diagnose.outside.seen import Failures

HANGING_S: Final = 5.0
Ending = Literal["", "failing", "time"]  # "": it was not ended, or by Ctrl-C
FAILURES_TO_GIVE_UP: Final = 3  # in a row, of requests sent alone


@dataclass(slots=True)
class Asker:
    """`deadline_s`: of the loop's clock. `stop`: set by Ctrl-C, the deadline, or a server that only fails."""

    server: Server
    stop: asyncio.Event
    seed: int
    deadline_s: float
    open_connection: Open = open_exchange
    read_samples: Callable[[Endpoint, str], Awaitable[dict[str, float]]] = scrape
    records: list[Record] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    ended: Ending = ""
    _num_prompts: int = 0
    _failed_in_a_row: int = 0

    @property
    def remaining_s(self) -> float:
        return max(0.0, self.deadline_s - asyncio.get_running_loop().time())

    def is_stopped(self) -> bool:
        return self.stop.is_set()

    def end(self, why: Ending) -> None:
        """What is under way is recorded as interrupted. The first reason stays."""
        if not self.stop.is_set():
            self.ended = why
            self.stop.set()

    def text(self, prompt_tokens: int) -> str:
        """A prompt of about so many tokens that was never sent before."""
        self._num_prompts += 1
        return text_of_length(prompt_tokens, self.server.words, (self.seed, self._num_prompts))

    def plan(
        self, prompt_tokens: int, output_tokens: int, *, at_s: float | None = None, text: str | None = None
    ) -> Planned:
        prompt = Prompt.of_text(self.text(prompt_tokens) if text is None else text)
        return Planned(self._num_prompts, prompt, output_tokens, prompt_tokens, at_s)

    async def alone(self, planned: Planned) -> Record | None:
        """None where the experiment has ended."""
        if self.is_stopped():
            return None
        phase = await self._load(self.stop).closed_loop("alone", [planned], 1)
        self._keep(phase)
        if not phase.records:
            return None
        record = phase.records[0]
        is_answered = record.is_ok or record.error == "no_tokens"
        self._failed_in_a_row = 0 if is_answered else self._failed_in_a_row + 1
        if self._failed_in_a_row >= FAILURES_TO_GIVE_UP and not self.is_stopped():
            self.end("failing")
        return record

    async def together(self, plans: Sequence[Planned]) -> Phase:
        phase = await self._load(self.stop).closed_loop("together", plans, len(plans))
        self._keep(phase)
        return phase

    async def at_times(self, plans: Sequence[Planned]) -> Phase:
        """Every plan has its `at_s`."""
        phase = await self._load(self.stop).open_loop("at times", plans)
        self._keep(phase)
        return phase

    async def cut_after(self, plans: Sequence[Planned], seconds: float) -> Phase:
        """All at once; after so many seconds the client goes away. Records of those cut are "interrupted"."""
        cut = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(seconds, cut.set)
        ending = asyncio.create_task(_set_after(self.stop, cut))
        try:
            phase = await self._load(cut).closed_loop("cut", plans, len(plans))
        finally:
            timer.cancel()
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
        self._keep(phase)
        return phase

    async def generated(self) -> int | None:
        """Tokens that the server has generated so far, by its own counter."""
        target = self.server.target
        samples = await self.read_samples(target.endpoint, target.base_path)
        name = next((name for name in COUNTERS["output tokens"] if name in samples), None)
        return None if name is None else round(samples[name])

    def failures(self) -> Failures:
        """A model may have no word to say to ours: an orderly answer without a token is no failure.
        Requests that we cut ourselves are neither successes nor failures, but for those that had no token
        yet when the time was over although they had waited: a server that hangs looks like that.
        """
        kinds: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for record in self.records:
            if record.is_ok or is_refused(record) or record.error == "no_tokens":
                continue
            kind = f"http {record.status}" if record.error == "http" else str(record.error)
            detail = record.detail
            if record.error == "interrupted":
                waited_s = (record.end_s or 0.0) - record.intended_s
                if record.pieces or self.ended != "time" or waited_s < HANGING_S:
                    continue
                kind, detail = "unanswered", f"no token within {waited_s:.0f} s, when the time was over"
            kinds[kind] += 1
            examples.setdefault(kind, detail)
        return Failures(
            len(self.records),
            sum(record.is_ok for record in self.records),
            sum(map(is_refused, self.records)),
            sum(record.error == "no_tokens" for record in self.records),
            dict(kinds.most_common()),
            examples,
        )

    def _keep(self, phase: Phase) -> None:
        self.records += phase.records
        self.lags_s += phase.lags_s

    def _load(self, stop: asyncio.Event) -> Load:
        return Load(self._client, stop=stop, on_record=lambda record: None)

    def _client(self, began_s: float) -> Client:
        return Client(self.server.target, began_s=began_s, open_connection=self.open_connection)


def is_refused(record: Record) -> bool:
    return record.status in REFUSED_STATUS


async def _set_after(first: asyncio.Event, then: asyncio.Event) -> None:
    await first.wait()
    then.set()
