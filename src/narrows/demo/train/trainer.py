"""The training loop: draws batches, steps, writes checkpoints and exports, until the time budget is spent.

Inputs: sources, held-out text, `RunSettings`, an output folder. Outputs: `checkpoint.pt` and `model/`
in that folder. Does not know the command line.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from narrows.demo.train.batches import BatchStream
from narrows.demo.train.config import OptimSettings, RunSettings
from narrows.demo.train.corpus import Source
from narrows.demo.train.evaluate import HeldOutReport, evaluate
from narrows.demo.train.export import export_model, load_exported
from narrows.demo.train.model import StoryModel
from narrows.demo.train.optim import OptimiserPair
from narrows.demo.train.tokenizer import SPECIAL_TOKENS, token_id, train_tokenizer
from narrows.errors import InvalidConfig

LOG = logging.getLogger("narrows.demo.train")
TOKENIZER_SAMPLE_STORIES = 12000


class BudgetClock:
    """Adds up the time between ticks as far as the process had its cores, and the time on the wall beside it.

    A stopped process uses no CPU time, so a pause counts for nothing, nor does waiting for a core.
    """

    def __init__(self, num_cores: int, *, elapsed_s: float = 0.0, wall_s: float = 0.0) -> None:
        self.elapsed_s = elapsed_s
        self.wall_s = wall_s
        self._num_cores = num_cores
        self._last_s, self._last_cpu_s = time.monotonic(), time.process_time()

    def tick(self) -> float:
        """Counts the time since the last tick and returns what of it passed on the wall."""
        now_s, cpu_s = time.monotonic(), time.process_time()
        step_s = now_s - self._last_s
        self.elapsed_s += min(step_s, (cpu_s - self._last_cpu_s) / self._num_cores)
        self.wall_s += step_s
        self._last_s, self._last_cpu_s = now_s, cpu_s
        return step_s


def tokenizer_stories(sources: Sequence[Source], seed: int) -> Iterator[str]:
    """Stories drawn in the mixture's mean proportions, so that common simple words get whole tokens."""
    rng = random.Random(f"{seed}/tokenizer")
    weights = [source.rule.start_weight + source.rule.end_weight for source in sources]
    for source in rng.choices(sources, weights, k=TOKENIZER_SAMPLE_STORIES):
        yield rng.choice(source.stories)


@dataclass(frozen=True, slots=True)
class RunData:
    """What is learned from, and what is only ever evaluated."""

    sources: Sequence[Source]
    held_out_text: str


class Trainer:
    """One run: everything a checkpoint must carry, and the loop over it."""

    def __init__(self, data: RunData, settings: RunSettings, *, tokenizer: Tokenizer, out: Path) -> None:
        self.settings = settings
        self.out = out
        self.tokenizer = tokenizer
        self._held_out_text = data.held_out_text
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(settings.seed)
        self.model = StoryModel(settings.shape).to(self._device)
        self._forward: Callable[..., Tensor] = self.model
        if settings.use_compile:
            self._forward = torch.compile(self.model, dynamic=False)
        self._optimisers = OptimiserPair(self.model, settings.optim)
        self.stream = BatchStream(data.sources, tokenizer, settings.seed)
        # Where a GPU computes, one thread of this process waits for it.
        self._num_cores = 1 if self._device.type == "cuda" else torch.get_num_threads()
        self.clock = BudgetClock(self._num_cores)
        self.num_steps = 0
        self.num_tokens = 0

    @classmethod
    def start(cls, data: RunData, settings: RunSettings, out: Path) -> Trainer:
        """Begins afresh: trains the tokenizer on the sources."""
        stories = tokenizer_stories(data.sources, settings.seed)
        tokenizer = train_tokenizer(stories, settings.shape.vocab_size)
        out.mkdir(parents=True, exist_ok=True)
        return cls(data, settings, tokenizer=tokenizer, out=out)

    @classmethod
    def go_on_from(cls, folder: Path, data: RunData, settings: RunSettings, out: Path) -> Trainer:
        """Begins with the weights and the tokenizer of a finished model folder, and fresh optimisers."""
        model, tokenizer = load_exported(folder)
        if model.shape != settings.shape:
            raise InvalidConfig(
                f"{folder} holds a model of another shape ({model.shape}) than this recipe trains "
                f"({settings.shape}); give a folder this program wrote"
            )
        if tokenizer.get_vocab_size() != settings.shape.vocab_size:
            raise InvalidConfig(
                f"the tokenizer of {folder} has {tokenizer.get_vocab_size()} tokens but its model "
                f"{settings.shape.vocab_size}; give a folder whose files belong together"
            )
        for token in SPECIAL_TOKENS:
            token_id(tokenizer, token)
        out.mkdir(parents=True, exist_ok=True)
        trainer = cls(data, settings, tokenizer=tokenizer, out=out)
        trainer.model.load_state_dict(model.state_dict())
        return trainer

    @classmethod
    def resume(cls, data: RunData, settings: RunSettings, out: Path) -> Trainer:
        """Goes on from `checkpoint.pt`; refuses a missing one or one of another shape."""
        path = out / "checkpoint.pt"
        if not path.is_file():
            raise InvalidConfig(f"no checkpoint at {path}; start without --resume")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["shape"] != asdict(settings.shape):
            raise InvalidConfig(f"{path} holds a model of another shape; start without --resume")
        # A run goes on by the schedule it was begun with.
        begun = state["begun_with"]
        settings = replace(settings, **{**begun, "optim": OptimSettings(**begun["optim"])})
        trainer = cls(data, settings, tokenizer=Tokenizer.from_str(state["tokenizer"]), out=out)
        trainer.model.load_state_dict(state["model"])
        trainer._optimisers.restore(state["optimisers"])
        trainer.stream.restore(state["stream"])
        trainer.clock = BudgetClock(trainer._num_cores, elapsed_s=state["elapsed_s"], wall_s=state["wall_s"])
        trainer.num_steps, trainer.num_tokens = state["num_steps"], state["num_tokens"]
        return trainer

    def save(self) -> None:
        """Writes the checkpoint; an interrupted write leaves the old one."""
        state: dict[str, Any] = {
            "shape": asdict(self.settings.shape),
            "model": self.model.state_dict(),
            "optimisers": self._optimisers.state(),
            "tokenizer": self.tokenizer.to_str(),
            "stream": self.stream.state(),
            "begun_with": {
                "seed": self.settings.seed,
                "optim": asdict(self.settings.optim),
                "mixture_start": self.settings.mixture_start,
            },
            "elapsed_s": self.clock.elapsed_s,
            "wall_s": self.clock.wall_s,
            "num_steps": self.num_steps,
            "num_tokens": self.num_tokens,
        }
        unfinished = self.out / "checkpoint.pt.part"
        torch.save(state, unfinished)
        unfinished.replace(self.out / "checkpoint.pt")

    def progress(self) -> float:
        """Spent fraction of whichever budget runs out first, or of `max_steps` where a test sets it."""
        if self.settings.max_steps is not None:
            return float(self.num_steps / self.settings.max_steps)
        spent = self.clock.elapsed_s / (60.0 * self.settings.minutes)
        if self.settings.wall_minutes is not None:
            spent = max(spent, self.clock.wall_s / (60.0 * self.settings.wall_minutes))
        return float(spent)

    def train_step(self) -> float:
        """One batch: forward, backward, both optimisers; returns the loss."""
        progress = self.progress()
        stage = self.settings.stage_at(progress)
        mixture = self.settings.mixture_at(progress)
        batch = self.stream.next_batch(stage.rows, stage.row_tokens, mixture)
        rows = torch.from_numpy(batch).to(self._device)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.settings.use_bf16):
            loss = self._forward(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        torch.autograd.backward(loss)
        self._optimisers.step(progress)
        self.num_steps += 1
        self.num_tokens += stage.rows * stage.row_tokens
        return float(loss.detach())

    def evaluate_and_export(self, max_windows: int | None) -> HeldOutReport:
        """Held-out loss (whole context in the report's quarters) and a fresh `model/` folder."""
        window_tokens = min(512, self.settings.shape.max_positions)
        report = evaluate(
            self.model,
            self.tokenizer,
            self._held_out_text,
            window_tokens=window_tokens,
            max_windows=max_windows,
        )
        export_model(self.model, self.tokenizer, self.out / "model")
        LOG.info("held-out step %d: %s", self.num_steps, report)
        return report

    def run(self) -> HeldOutReport:
        """Steps until the budget is spent; what it leaves behind is of the finished model."""
        settings, recent_loss, recent_s, recent_tokens = self.settings, 0.0, 0.0, 0
        next_save_s = self.clock.elapsed_s + settings.checkpoint_every_s
        next_evaluation_s = self.clock.elapsed_s + settings.evaluate_every_s
        while self.progress() < 1.0:
            tokens_before = self.num_tokens
            recent_loss += self.train_step()
            recent_s += self.clock.tick()
            recent_tokens += self.num_tokens - tokens_before
            if self.num_steps % settings.log_every_steps == 0:
                self._log(recent_loss / settings.log_every_steps, recent_tokens / max(recent_s, 1e-9))
                recent_loss, recent_s, recent_tokens = 0.0, 0.0, 0
            if self.clock.elapsed_s >= next_save_s:
                self.save()
                next_save_s = self.clock.elapsed_s + settings.checkpoint_every_s
            if self.clock.elapsed_s >= next_evaluation_s:
                self.evaluate_and_export(max_windows=64)
                next_evaluation_s = self.clock.elapsed_s + settings.evaluate_every_s
        self.save()
        LOG.info("epochs read: %s", self.stream.epochs())
        return self.evaluate_and_export(max_windows=None)

    def _log(self, loss: float, tokens_per_s: float) -> None:
        LOG.info(
            "step %d loss %.4f tokens %d tokens/s %.0f progress %.3f counted %.1f min of %.1f",
            self.num_steps, loss, self.num_tokens, tokens_per_s, self.progress(),
            self.clock.elapsed_s / 60.0, self.clock.wall_s / 60.0,
        )  # fmt: skip
