"""The figures of one stream, each with what it is compared with: the lines `narrows demo` ends with.

In: times as the client saw them, bytes as the server reports them, bandwidths as measured. Out: lines of
text.
"""

from __future__ import annotations

from dataclasses import dataclass

MB, GB = 1e6, 1e9


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """One answer. Times by the client's clock, from the request's last byte sent."""

    load_s: float
    first_text_s: float
    last_event_s: float
    num_prompt: int
    num_output: int
    weight_bytes_per_step: float
    kv_bytes_per_token: float

    @property
    def per_token_s(self) -> float:
        """The first token is TTFT's; 0 where there was no second one."""
        return (self.last_event_s - self.first_text_s) / (self.num_output - 1) if self.num_output > 1 else 0.0

    @property
    def bytes_per_token(self) -> float:
        """What a decode step reads: all weights, and on average half of the answer's keys and values."""
        return self.weight_bytes_per_step + (self.num_prompt + self.num_output / 2) * self.kv_bytes_per_token


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Measured on this machine, with the threads the server used. Cache: reading the model's size again and
    again.
    """

    memory_gb_per_s: float
    cache_bytes: int
    cache_gb_per_s: float | None  # None: the model does not fit into the last-level cache


def lines(figures: StreamFigures, ceiling: Ceiling) -> list[str]:
    made = [
        f"load      {figures.load_s:.2f} s, from starting the server process until it listened",
        f"TTFT      {figures.first_text_s * 1e3:.1f} ms, {figures.num_prompt} prompt tokens",
    ]
    if figures.per_token_s <= 0:
        return [*made, "TPOT      none: the answer had a single token"]
    per_s = 1 / figures.per_token_s
    gb_per_s = figures.bytes_per_token * per_s / GB
    made.append(f"TPOT      {figures.per_token_s * 1e3:.2f} ms, {figures.num_output} tokens")
    made.append(
        f"speed     {per_s:.0f} tokens/s x {figures.bytes_per_token / MB:.1f} MB = {gb_per_s:.1f} GB/s, "
        f"{gb_per_s / ceiling.memory_gb_per_s:.0%} of this machine's {ceiling.memory_gb_per_s:.1f} GB/s "
        "from memory"
    )
    if ceiling.cache_gb_per_s is not None:
        made.append(
            f"          {gb_per_s / ceiling.cache_gb_per_s:.0%} of its {ceiling.cache_gb_per_s:.1f} GB/s "
            f"from cache: the model fits into {ceiling.cache_bytes / MB:.0f} MB of it, so the line above may "
            "pass 100 %"
        )
    return made
