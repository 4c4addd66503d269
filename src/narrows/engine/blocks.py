"""The pool of KV blocks: numbers handed out and taken back. A block has one owner at a time.

Knows neither requests nor memory: a runner maps a number to bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from narrows.errors import InternalError


class BlockPool:
    """Owns the block ids 0..num_blocks-1. The block freed last goes first: its memory is still in cache."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._is_used = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def allocate(self, count: int) -> tuple[int, ...]:
        """`count` blocks nobody owns. The caller has looked at `num_free`."""
        if count > len(self._free):
            raise InternalError(f"{count} blocks taken where {len(self._free)} are free")
        taken = tuple(self._free.pop() for _ in range(count))
        for block_id in taken:
            self._is_used[block_id] = 1
        return taken

    def release(self, block_ids: tuple[int, ...]) -> None:
        for block_id in reversed(block_ids):
            if not self._is_used[block_id]:
                raise InternalError(f"block {block_id} was given back twice")
            self._is_used[block_id] = 0
            self._free.append(block_id)

    def check_integrity(self, owned: Iterable[tuple[int, ...]]) -> None:
        """Raises InternalError unless every block is either free or in exactly one of `owned`."""
        held = [block_id for block_ids in owned for block_id in block_ids]
        if sorted(held + self._free) != list(range(self.num_blocks)):
            raise InternalError(
                f"{len(held)} blocks owned and {len(self._free)} free are not the {self.num_blocks} there are"
            )
        if any(self._is_used[block_id] for block_id in self._free) or sum(self._is_used) != len(held):
            raise InternalError("the pool's marks of used blocks contradict its free list")
