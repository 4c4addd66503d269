"""The `narrows` command: finds the verb, imports it when called, turns errors into one line and an exit code.

Exit codes: 0 done, 2 the caller is wrong, 3 the machine is short of something, 1 anything else, 130 Ctrl-C.
Knows no verb's options: each module in VERBS has `configure(parser)` and `run(arguments) -> exit code`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from narrows import __version__
from narrows.errors import CallerError, NarrowsError, ShortError

EXIT_INTERNAL, EXIT_CALLER, EXIT_SHORT, EXIT_INTERRUPTED = 1, 2, 3, 130


@dataclass(frozen=True, slots=True)
class Verb:
    module: str
    summary: str


VERBS = {
    "serve": Verb("narrows.serve.run", "serve a model as an OpenAI-compatible token stream"),
    "chat": Verb("narrows.demo.chat", "talk to a model in the terminal"),
    "machine": Verb("narrows.machine.run", "measure what this machine can do; say what each figure limits"),
    "bench": Verb("narrows.bench.run", "put load on any OpenAI-compatible server and measure it"),
    "demo": Verb("narrows.demo.run", "start a server, stream one story from it, say how fast it was"),
    "diagnose": Verb(
        "narrows.diagnose.run", "say why a model or a running server is slow, and what would help"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    _accept_any_text()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["version"], ["--version"]):
        print(f"narrows {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else EXIT_CALLER
    if words[0] not in VERBS:
        print(f"narrows: there is no verb '{words[0]}'\n\n{_help()}", file=sys.stderr)
        return EXIT_CALLER
    return _run(words[0], words[1:])


def _run(name: str, words: Sequence[str]) -> int:
    verb = VERBS[name]
    module = importlib.import_module(verb.module)
    parser = argparse.ArgumentParser(prog=f"narrows {name}", description=f"{verb.summary}.")
    module.configure(parser)
    arguments = parser.parse_args(words)
    try:
        return int(module.run(arguments))
    except NarrowsError as error:
        print(f"narrows {name}: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone (`| head`). Python would complain once more when it flushes at its
        # end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERNAL


def _accept_any_text() -> None:
    """A character that the terminal lacks, or a byte that is no character, becomes "?": a story goes on."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # it may be closed, or a test's
            stream.reconfigure(errors="replace")


def exit_code(error: NarrowsError) -> int:
    if isinstance(error, CallerError):
        return EXIT_CALLER
    return EXIT_SHORT if isinstance(error, ShortError) else EXIT_INTERNAL


def _help() -> str:
    lines = [f"  {name:<8} {verb.summary}" for name, verb in VERBS.items()]
    lines.append(f"  {'version':<8} show the version")
    return (
        "usage: narrows VERB [options]\n\n"
        + "\n".join(lines)
        + "\n\n'narrows VERB --help' shows the options of a verb."
    )


if __name__ == "__main__":
    sys.exit(main())
