"""`narrows chat`: a conversation in the terminal, in this process, without HTTP.

In: lines typed by the user. Out: answers as they are made, each with a line of figures. Ctrl-C stops an
answer, Ctrl-D or /exit the conversation; /new starts over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TextIO

from narrows.engine.client import RequestStream, SamplingParams, Timing, draw_seed
from narrows.engine.local import LLM
from narrows.errors import CallerError, ContextTooLong, InvalidRequest
from narrows.serve.options import add_model_options, open_model
from narrows.serve.progress import packing_progress

PROMPT = "> "


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument("--system", help="a system message before the conversation")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the likeliest token")
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, help="the same seed gives the same conversation")
    parser.add_argument("--max-tokens", type=int, help="of one answer; default: as many as the context holds")


def run(arguments: argparse.Namespace) -> int:
    with packing_progress() as progress:
        opened = open_model(arguments, progress=progress)
    with LLM.over(opened.client, opened.tokenizer) as llm:
        conversation = Conversation(llm, arguments, output=sys.stdout)
        return conversation.run(lambda: input(PROMPT if sys.stdin.isatty() else ""))


class Conversation:
    """The turns so far. Where they no longer fit into the context, the oldest are forgotten, and that is
    said.
    """

    def __init__(self, llm: LLM, arguments: argparse.Namespace, *, output: TextIO) -> None:
        self._llm = llm
        self._arguments = arguments
        self._output = output
        self._seed = draw_seed() if arguments.seed is None else arguments.seed % 2**64
        self._system = [{"role": "system", "content": arguments.system}] if arguments.system else []
        self._turns: list[dict[str, str]] = []

    def run(self, read_line: Callable[[], str]) -> int:
        while True:
            try:
                line = read_line().strip()
            except (EOFError, KeyboardInterrupt):
                self._say("\n")
                return 0
            if line == "/exit":
                return 0
            if line == "/new":
                self._turns.clear()
            elif line:
                self._answer(line)

    def _answer(self, line: str) -> None:
        self._turns.append({"role": "user", "content": line})
        try:
            stream = self._submit()
        except CallerError as error:
            self._turns.pop()
            self._say(f"({error})\n")
            return
        self._turns.append({"role": "assistant", "content": self._show(stream)})

    def _submit(self) -> RequestStream:
        arguments = self._arguments
        sampling = SamplingParams(
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            seed=(self._seed + len(self._turns)) % 2**64,
        )
        while True:
            try:
                return self._llm.stream_chat(
                    [*self._system, *self._turns], sampling, max_tokens=arguments.max_tokens
                )
            except InvalidRequest as error:
                # Either the prompt is too long, or it leaves too little for an answer of max_tokens.
                is_short = isinstance(error, ContextTooLong) or error.param == "max_tokens"
                if not is_short or len(self._turns) < 3:
                    raise
                del self._turns[:2]
                self._say("(the conversation is longer than the context: its oldest turns are forgotten)\n")

    def _show(self, stream: RequestStream) -> str:
        text, timing = "", None
        try:
            for chunk in stream:
                text += chunk.text
                timing = chunk.timing
                self._say(chunk.text)
        except KeyboardInterrupt:
            stream.abort()
            self._say("\n(stopped)")
        self._say("\n" + (_figures(timing) if timing is not None else "") + "\n")
        return text

    def _say(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


def _figures(timing: Timing) -> str:
    parts = [f"{timing.num_prompt} + {timing.num_output} tokens", f"TTFT {timing.ttft_s * 1e3:.1f} ms"]
    if timing.num_output > 1 and timing.decode_s > 0:
        per_token_s = timing.decode_s / (timing.num_output - 1)
        parts += [f"TPOT {per_token_s * 1e3:.2f} ms", f"{1 / per_token_s:.0f} tokens/s"]
    return f"({', '.join(parts)})\n"
