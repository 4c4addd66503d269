"""The packed layouts of the native core as plain numbers: formats, sizes, which group fits a matrix.

In: rows and columns. Out: bytes and offsets, equal to cpp/include/narrows/formats.h (a test compares them).
Touches no data and does not load the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

KvKind = Literal["f16", "f32", "int8"]  # keys and values in their pages
FormatName = Literal["f32", "f16", "bf16", "p8", "p44", "p4"]
PANEL: Final = 16  # output channels in a panel
KV_BLOCK: Final = 16  # tokens whose keys and values lie together: a page per kv head
ALIGNMENT: Final = 64  # bytes; of panels and of every packed tensor
GROUPS: Final = (32, 64, 128)  # inputs that share a scale
ITEM_BYTES: Final[dict[FormatName, int]] = {"f32": 4, "f16": 2, "bf16": 2}


def round_up(value: int, to: int) -> int:
    return -(-value // to) * to


def kv_page_bytes(kv: KvKind, head_dim: int) -> int:
    """Keys and values of one block and kv head; int8 has a float32 scale per token for each."""
    if kv == "int8":
        return 2 * ALIGNMENT + KV_BLOCK * (round_up(head_dim, 4) + round_up(head_dim, PANEL))
    return 2 * round_up(head_dim * KV_BLOCK * ITEM_BYTES[kv], ALIGNMENT)


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """How a matrix is stored. `group` is 0 for the float formats."""

    name: FormatName
    group: int = 0
    has_zero: bool = False  # p4 only: a zero point per (group, channel)

    @property
    def is_quantized(self) -> bool:
        return self.name in ("p8", "p44", "p4")

    def describe(self) -> str:
        """For humans: q4 (groups of 128, zero points)."""
        match self.name:
            case "p8":
                return "q8"
            case "p44":
                return "q8 in two planes"
            case "p4":
                return f"q4 (groups of {self.group}{', zero points' if self.has_zero else ''})"
        return self.name


@dataclass(frozen=True, slots=True)
class PackedShape:
    """A packed matrix of `n` output channels and `k` inputs."""

    format: PackedFormat
    n: int
    k: int

    @property
    def panels(self) -> int:
        return -(-self.n // PANEL)

    @property
    def padded_k(self) -> int:
        return round_up(self.k, self.format.group) if self.format.group else self.k

    @property
    def groups(self) -> int:
        return self.padded_k // self.format.group if self.format.group else 0

    @property
    def scale_bytes(self) -> int:
        """Bytes of a panel before its zero points or codes."""
        match self.format.name:
            case "p8":
                return PANEL * 4
            case "p44":
                return 2 * PANEL * 4
            case "p4":
                return round_up(self.groups * PANEL * 2, ALIGNMENT)
        return 0

    @property
    def zero_bytes(self) -> int:
        has_zero = self.format.name == "p4" and self.format.has_zero
        return round_up(self.groups * PANEL, ALIGNMENT) if has_zero else 0

    @property
    def panel_bytes(self) -> int:
        """From one panel to the next; p44: in the upper plane."""
        match self.format.name:
            case "p8":
                return self.scale_bytes + self.padded_k * PANEL
            case "p44":
                return self.scale_bytes + self.padded_k * PANEL // 2
            case "p4":
                return self.scale_bytes + self.zero_bytes + self.padded_k * PANEL // 2
        return round_up(self.k * PANEL * ITEM_BYTES[self.format.name], ALIGNMENT)

    @property
    def lower_bytes(self) -> int:
        """Bytes of a panel in the lower plane; 0 where there is none."""
        return self.padded_k * PANEL // 2 if self.format.name == "p44" else 0

    @property
    def num_bytes(self) -> int:
        return (self.panel_bytes + self.lower_bytes) * self.panels

    @property
    def first_bytes(self) -> int:
        """What is read to find the largest results: of p44 the upper plane, else everything."""
        return self.panel_bytes * self.panels


def fitting_group(k: int, wanted: int) -> int:
    """The largest group up to `wanted` that pads `k` no more than the smallest group would.

    A padded input costs as much as a real one: 172 inputs in groups of 128 would be computed as 256.
    """
    least = round_up(k, GROUPS[0])
    return max(group for group in GROUPS if group <= wanted and round_up(k, group) == least)
