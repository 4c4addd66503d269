"""Mixed load on a server: clients that ask, read, leave and err in every way the API has, over sockets.

In: a server's URL and the sizes of its model. Out: how often each kind of request was made, and every
answer that was not what its kind expects. Knows nothing of processes or trends.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 300.0
KEPT_SURPRISES = 20
COMPLETIONS = "/v1/completions"
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the server: token ids are below `vocab`, prompt and answer together at most `context`. `capacity`:
    requests that it takes before it is overloaded; `max_body`: bytes.
    """

    model: str
    vocab: int
    context: int
    capacity: int
    max_body: int


@dataclass(slots=True)
class Tally:
    """What happened; shared by the clients."""

    asked: Counter[str] = field(default_factory=Counter)
    refused: int = 0  # 429: the queue was full, as it may be
    num_surprises: int = 0
    surprises: list[str] = field(default_factory=list)  # the first KEPT_SURPRISES
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        with self.lock:
            return sum(self.asked.values())

    def note(self, kind: str, problem: str, *, was_refused: bool) -> None:
        with self.lock:
            self.asked[kind] += 1
            self.refused += was_refused
            if problem:
                self.num_surprises += 1
                if len(self.surprises) < KEPT_SURPRISES:
                    self.surprises.append(f"{kind}: {problem}")


class Surprise(Exception):
    """An answer that its kind of request does not expect."""


class Asker:
    """Makes the requests of one client; `rng` decides lengths, seeds and when to leave."""

    def __init__(self, url: str, sizes: Sizes, rng: random.Random) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        self.sizes, self.rng = sizes, rng
        self.was_refused = False

    def ids(self, count: int) -> list[int]:
        return [self.rng.randrange(5, self.sizes.vocab) for _ in range(count)]

    def body(self, prompt: object, max_tokens: int, **fields: object) -> Body:
        return {"model": self.sizes.model, "prompt": prompt, "max_tokens": max_tokens, **fields}

    def ask(self, body: Body | bytes, *, expect: int = 200, path: str = COMPLETIONS) -> Any:  # noqa: ANN401
        """The JSON of the whole answer. Where 200 is expected, 429 is one too: then None."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, body=data, headers={"content-type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        self._check(response.status, expect, text)
        return None if self.was_refused else json.loads(text)

    def stream(self, body: Body, *, leave_after: int | None = None) -> None:
        """Reads a stream to its end, or closes the connection after so many events."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_S)
        try:
            data = json.dumps({**body, "stream": True})
            connection.request("POST", COMPLETIONS, body=data, headers={"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                self._check(response.status, 200, response.read())
                return
            self._read_events(response, leave_after)
        finally:
            connection.close()

    def _read_events(self, response: http.client.HTTPResponse, leave_after: int | None) -> None:
        num_events, last = 0, b""
        for line in response:
            if not line.startswith(b"data: "):
                continue
            num_events, last = num_events + 1, line[6:].strip()
            if b'"error"' in last:
                raise Surprise(f"the stream ended with {last[:300]!r}")
            if num_events == leave_after:
                return
        if last != b"[DONE]":
            raise Surprise(f"the stream broke off after {num_events} events with {last[:200]!r}")

    def vanish(self, body: Body, *, whole: bool) -> None:
        """Sends a request, or only half of it, and closes without reading a byte."""
        data = json.dumps(body).encode()
        head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        message = head.encode() + f"content-length: {len(data)}\r\n\r\n".encode() + data
        with socket.create_connection(self._address, timeout=TIMEOUT_S) as connection:
            connection.sendall(message if whole else message[: len(message) - len(data) // 2])

    def _check(self, status: int, expect: int, text: bytes) -> None:
        self.was_refused = expect == http.client.OK and status == http.client.TOO_MANY_REQUESTS
        if status != expect and not self.was_refused:
            raise Surprise(f"{status} instead of {expect}: {text[:300]!r}")


def ask_answer(asker: Asker) -> None:
    asker.ask(asker.body(asker.ids(asker.rng.randint(8, 64)), asker.rng.randint(8, 48), temperature=0))


def ask_stream(asker: Asker) -> None:
    rng = asker.rng
    prompt = asker.ids(rng.randint(16, min(256, asker.sizes.context // 2)))
    body = asker.body(prompt, rng.randint(16, 96), seed=rng.randrange(1 << 40), temperature=0.8, top_p=0.95)
    asker.stream({**body, "stream_options": {"include_usage": True}})


def ask_long(asker: Asker) -> None:
    """Most of the context: blocks run short, and others lose theirs."""
    asker.stream(asker.body(asker.ids(asker.sizes.context * 3 // 4), 16, ignore_eos=True))


def ask_copy(asker: Asker) -> None:
    """A text that repeats itself: what speculation guesses from."""
    asker.ask(asker.body(asker.ids(12) * 8, asker.rng.randint(16, 64), temperature=0, ignore_eos=True))


def ask_choices(asker: Asker) -> None:
    seed = asker.rng.randrange(1 << 40)
    answer = asker.ask(asker.body([asker.ids(12), asker.ids(20)], 16, n=3, logprobs=5, seed=seed))
    if answer is not None and len(answer["choices"]) != 6:
        raise Surprise(f"{len(answer['choices'])} choices instead of 6")


def ask_rules(asker: Asker) -> None:
    """A text that no tokenizer has seen, and every rule about the answer."""
    rules = {"stop": ["e", "\n\n"], "min_tokens": 4, "presence_penalty": 0.5, "frequency_penalty": 0.5}
    bias = {str(token): -1.5 for token in asker.ids(8)}
    letters = "".join(asker.rng.choices("abcdefghijklmnopqrstuvwxyz     ", k=120))
    asker.stream(asker.body(letters, 48, **rules, repetition_penalty=1.1, logit_bias=bias, min_p=0.05))


def ask_score(asker: Asker) -> None:
    asker.ask(asker.body(asker.ids(40), 0, echo=True, logprobs=3))


def leave(asker: Asker) -> None:
    """Goes away in the middle of a stream."""
    body = asker.body(asker.ids(asker.rng.randint(8, 128)), 200, ignore_eos=True)
    asker.stream(body, leave_after=asker.rng.randint(1, 12))


def vanish(asker: Asker) -> None:
    body = asker.body(asker.ids(32), 200, n=2, ignore_eos=True, stream=asker.rng.random() < 0.5)
    asker.vanish(body, whole=asker.rng.random() < 0.7)


def err(asker: Asker) -> None:
    """One of the ways to be refused."""
    sizes = asker.sizes
    good = asker.body(asker.ids(8), 8)
    ways: list[tuple[Body | bytes, int, str]] = [
        (b'{"model": ', 400, COMPLETIONS),
        (b"\xff\xfe\x00", 400, COMPLETIONS),
        ({**good, "surprise": 1}, 400, COMPLETIONS),
        ({**good, "temperature": "hot"}, 400, COMPLETIONS),
        ({**good, "prompt": [sizes.vocab + 7]}, 400, COMPLETIONS),
        ({**good, "prompt": asker.ids(sizes.context + 1)}, 400, COMPLETIONS),
        ({**good, "model": "nobody"}, 404, COMPLETIONS),
        (good, 404, "/v1/nothing"),
        (b" " * (sizes.max_body + 1), 413, COMPLETIONS),
    ]
    body, status, path = asker.rng.choice(ways)
    asker.ask(body, expect=status, path=path)


def overload(asker: Asker) -> None:
    """As many choices as the server has places: some are queued already when the rest is refused."""
    asker.ask(asker.body(asker.ids(16), 16, n=min(64, asker.sizes.capacity)))


# Kind -> what it does and how often it comes in a deck of cards; each client goes through shuffled decks.
KINDS: dict[str, tuple[Callable[[Asker], None], int]] = {
    "answer": (ask_answer, 6),
    "stream": (ask_stream, 6),
    "long": (ask_long, 1),
    "copy": (ask_copy, 3),
    "choices": (ask_choices, 1),
    "rules": (ask_rules, 2),
    "score": (ask_score, 1),
    "leave": (leave, 3),
    "vanish": (vanish, 2),
    "error": (err, 4),
    "overload": (overload, 1),
}


class Load:
    """Clients in threads, which work while the gate is open. Use with `with`."""

    def __init__(self, url: str, sizes: Sizes, *, num_clients: int, seed: int) -> None:
        self.tally = Tally()
        self._open = threading.Event()
        self._ending = threading.Event()
        self._parked = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._main, args=(Asker(url, sizes, random.Random(f"{seed} {i}")),))
            for i in range(num_clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.pause()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._open.set()
        for thread in self._threads:
            thread.join()

    def resume(self) -> None:
        self._open.set()

    def pause(self) -> None:
        """Returns when every client has finished what it was at."""
        self._open.clear()
        for _ in self._threads:
            self._parked.acquire()

    def _main(self, asker: Asker) -> None:
        while not self._ending.is_set():
            deck = [kind for kind, (_, count) in KINDS.items() for _ in range(count)]
            asker.rng.shuffle(deck)
            for kind in deck:
                if not self._open.is_set():
                    self._parked.release()
                    self._open.wait()
                if self._ending.is_set():
                    return
                self._once(asker, kind)

    def _once(self, asker: Asker, kind: str) -> None:
        asker.was_refused, problem = False, ""
        try:
            KINDS[kind][0](asker)
        except (Surprise, OSError, http.client.HTTPException, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        self.tally.note(kind, problem, was_refused=asker.was_refused)
