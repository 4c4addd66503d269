"""Held-out loss of a model: per token, per byte, and for the second half of the declared context.

Inputs: a model, a tokenizer, a text file. Outputs: a `HeldOutReport`. Run as a program on an exported folder:
`python -m narrows.demo.train.evaluate --model FOLDER --held-out FILE`. Does not train.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from narrows.demo.train.corpus import read_text
from narrows.demo.train.export import load_exported
from narrows.demo.train.model import StoryModel
from narrows.demo.train.tokenizer import END_OF_TEXT, token_id
from narrows.errors import InvalidConfig


@dataclass(frozen=True, slots=True)
class HeldOutReport:
    """Means over all predicted tokens of non-overlapping windows."""

    num_tokens: int
    num_bytes: int
    window_tokens: int
    nats_per_token: float
    perplexity_per_token: float
    bits_per_byte: float
    nats_by_quarter: tuple[float, ...]


def _windows(
    tokenizer: Tokenizer, text: str, window_tokens: int, max_windows: int | None
) -> tuple[Tensor, int]:
    """Windows [count, window + 1], each begun with end-of-text, and the bytes they predict."""
    ids = tokenizer.encode(text).ids
    count = len(ids) // window_tokens
    count = count if max_windows is None else min(count, max_windows)
    kept = torch.tensor(ids[: count * window_tokens], dtype=torch.int64).view(count, window_tokens)
    start = torch.full((count, 1), token_id(tokenizer, END_OF_TEXT), dtype=torch.int64)
    num_bytes = len(tokenizer.decode(kept.flatten().tolist(), skip_special_tokens=False).encode())
    return torch.cat((start, kept), dim=1), num_bytes


@torch.no_grad()
def evaluate(
    model: StoryModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    window_tokens: int = 512,
    max_windows: int | None = None,
) -> HeldOutReport:
    """Loss of every token given the tokens before it in its window, in fp32."""
    windows, num_bytes = _windows(tokenizer, text, window_tokens, max_windows)
    if not len(windows):
        raise InvalidConfig(
            f"the held-out text is shorter than one window of {window_tokens} tokens; give more"
        )
    device = model.embed_tokens.weight.device
    losses: list[Tensor] = []
    for window in torch.split(windows, 8):
        logits = model(window[:, :-1].to(device)).float()
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].to(device).flatten(), reduction="none")
        losses.append(loss.view(len(window), -1).cpu())
    nats = torch.cat(losses)
    total = float(nats.double().sum())
    return HeldOutReport(
        num_tokens=nats.numel(),
        num_bytes=num_bytes,
        window_tokens=window_tokens,
        nats_per_token=total / nats.numel(),
        perplexity_per_token=math.exp(total / nats.numel()),
        bits_per_byte=total / math.log(2) / num_bytes,
        nats_by_quarter=tuple(float(part.mean()) for part in nats.chunk(4, dim=1)),
    )


def main(arguments: list[str] | None = None) -> int:
    """Prints the report of an exported model as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m narrows.demo.train.evaluate", description=main.__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--window-tokens", type=int, default=512)
    given = parser.parse_args(arguments)
    model, tokenizer = load_exported(given.model)
    report = evaluate(model, tokenizer, read_text(given.held_out), window_tokens=given.window_tokens)
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
