"""Server-sent events out of bytes, cut anywhere. WHATWG HTML, "Server-sent events", section 9.2.6.

In: bytes as they arrive. Out: the data of each complete event. Lines that are no field of an event are
counted: a proxy's error page in the middle of a stream is no event, and must not pass for silence.
"""

from __future__ import annotations

import re

LINE_END = re.compile(rb"\r\n|\n|\r")
MAX_EVENT_BYTES = 4_000_000  # no token is that long: a server that never ends a line must not fill the memory
FIELDS = (b"data", b"event", b"id", b"retry")


class EventParser:
    """`num_odd_lines`: lines that were neither a field nor a comment. `is_cut`: an event had begun at the
    end.
    """

    def __init__(self) -> None:
        self.num_odd_lines = 0
        self.is_overlong = False
        self._rest = b""
        self._data: list[bytes] = []
        self._is_first = True

    @property
    def is_cut(self) -> bool:
        return bool(self._data or self._rest.strip())

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that `data` completes; none any more once one was too long."""
        if self.is_overlong:
            return []
        buffer = self._rest + data
        if self._is_first and buffer:
            if buffer[:1] == b"\xef" and len(buffer) < 3:
                self._rest = buffer
                return []
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
            self._is_first = False
        # A lone \r at the end may be the first half of \r\n.
        hold = buffer[-1:] == b"\r"
        lines = LINE_END.split(buffer[:-1] if hold else buffer)
        self._rest = lines.pop() + (b"\r" if hold else b"")
        events = []
        if len(self._rest) > MAX_EVENT_BYTES or sum(map(len, self._data)) > MAX_EVENT_BYTES:
            self.is_overlong = True
        for line in lines:
            if line:
                self._field(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif name and name not in FIELDS:
            self.num_odd_lines += 1
