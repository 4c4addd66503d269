"""Whether a server stays as fast and as small as it began, under an hour of mixed load.

    soak.py                                              the embedded model, an hour
    soak.py FOLDER --minutes 10 -- --weights q4          with options of `narrows serve`

`narrows serve` runs as a child with short queues and too few KV blocks for its requests, so that requests
are preempted and refused too. Clients ask over HTTP (soak_load.py); after every window they pause, and the
idle server is looked at: memory, file descriptors, threads, KV blocks. Then one and the same request is
timed, whose answer must stay the same. At the end a line through each series says FLAT, DRIFT or UNSURE
(trend.py) for what changed between the first and the last window after the warm-up. Rows are appended as
they come; Ctrl-C ends the load and keeps them. Exit code 1: something slowed down or grew, was left, or was
answered otherwise than its request expects.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import trend
from report import machine_facts
from soak_load import Load, Sizes, Tally
from soak_window import Soak, Window, judge, leaks

from narrows.demo.server_process import ServerProcess
from narrows.demo.sse_client import wait_until_ready
from narrows.models.config import ModelConfig
from narrows.models.families.outline import spec_from_config
from narrows.models.resolve import resolve_model
from narrows.models.sizes import kv_bytes_per_token

ROWS = Path(__file__).parent / "results/soak.jsonl"
NAME = "soak"  # the model's served name
MAX_RUNNING, MAX_WAITING, MAX_BODY = 8, 16, 200_000
KV_SHARE = 0.15  # of the blocks that MAX_RUNNING requests of full length want


def serve_words(folder: Path, context: int, options: Sequence[str]) -> tuple[list[str], Sizes]:
    """The words of `narrows serve`, and the sizes that clients keep to. `options` come last and win."""
    spec = spec_from_config(ModelConfig(json.loads((folder / "config.json").read_text())))
    context = min(context, spec.max_positions)
    kv_bytes = max(KV_SHARE * MAX_RUNNING, 1.0) * context * kv_bytes_per_token(spec)
    words = [str(folder), "--served-model-name", NAME, "--max-body", str(MAX_BODY), "--offline"]
    words += ["--max-context", str(context), "--kv-memory", str(round(kv_bytes))]
    words += ["--max-running", str(MAX_RUNNING), "--max-waiting", str(MAX_WAITING)]
    words += ["--speculation", "on"]
    return [*words, *options], Sizes(NAME, spec.vocab, context, MAX_RUNNING + MAX_WAITING, MAX_BODY)


def show(window: Window) -> str:
    return (
        f"{window.minute:6.1f} min {window.tokens_per_s:9.1f} tok/s {window.tokens_per_cpu_s:9.1f} /CPU-s "
        f"probe {window.probe_tokens_per_s:8.1f}  {window.requests:6} requests  anonymous "
        f"{window.anonymous_mb:8.1f} file {window.file_mb:8.1f} MB  fds {window.num_fds} "
        f"threads {window.num_threads} blocks {window.kv_blocks_used}"
    )


def append(target: Path, row: dict[str, object]) -> None:
    with target.open("a") as out:
        out.write(json.dumps(row) + "\n")


def run_windows(
    soak: Soak, *, minutes: float, seconds: float, keep: list[Window], target: Path, facts: dict[str, object]
) -> None:
    """Fills `keep`, so that what was measured is there whatever ends this."""
    from tqdm import tqdm

    end_s = time.monotonic() + minutes * 60
    with tqdm(total=round(minutes * 60), unit="s", disable=None) as bar:
        while time.monotonic() < end_s:
            window = soak.window(seconds, bar.update)
            keep.append(window)
            append(target, {**facts, **asdict(window)})
            bar.write(show(window))


def conclude(
    windows: Sequence[Window], tally: Tally, *, failure: str, warm_up: int, target: Path, run: int
) -> int:
    """Prints and appends the verdict; returns the exit code."""
    problems = [failure] if failure else []
    problems += [*leaks(windows), *tally.surprises]
    settled = windows[warm_up:]
    verdicts = {}
    if len(settled) < trend.LEAST:
        print(f"{len(settled)} windows after {warm_up} of warm-up: too few for a trend ({trend.LEAST})")
    else:
        judgements = judge(settled)
        print(*(one.text() for one in judgements), sep="\n")
        verdicts = {one.name: {"verdict": one.verdict, **asdict(one.trend)} for one in judgements}
        problems += [f"{one.name} drifts" for one in judgements if one.is_bad]
    asked = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.asked.items()))
    print(f"asked: {asked}; {tally.refused} refused as the queue was full")
    if tally.num_surprises:
        print(f"{tally.num_surprises} answers were not as expected; the first ones are listed below")
    print(*problems, sep="\n", end="\n" if problems else "")
    row = {"run": run, "verdicts": verdicts, "problems": problems, "asked": dict(tally.asked)}
    append(target, {**row, "refused": tally.refused, "windows": len(windows), "warm_up": warm_up})
    return int(bool(problems))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="folder; default: the embedded model")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--window", type=float, default=60, metavar="S", help="seconds of load between looks")
    parser.add_argument("--warm-up", type=int, metavar="N", help="windows left out; default: a tenth, from 2")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--context", type=int, default=1024, help="tokens of a request at most")
    parser.add_argument("--seed", type=int, default=1, help="of what is asked")
    parser.add_argument("--rows", type=Path, default=ROWS, help="appended to; default: results/")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:split])
    if arguments.minutes <= 0 or arguments.window <= 0 or arguments.clients < 1:
        parser.error("--minutes, --window and --clients must be positive")
    command, sizes = serve_words(resolve_model(arguments.model), arguments.context, words[split + 1 :])
    run = int(time.time())
    facts = {"run": run, "model": arguments.model or "embedded", "options": words[split + 1 :]}
    windows: list[Window] = []
    tally, failure = Tally(), ""
    try:
        with ServerProcess(command) as server:
            wait_until_ready(server.url)
            load = Load(server.url, sizes, num_clients=arguments.clients, seed=arguments.seed)
            tally = load.tally
            with load:
                soak = Soak(url=server.url, pid=server._process.pid, load=load, sizes=sizes)
                run_windows(
                    soak,
                    minutes=arguments.minutes,
                    seconds=arguments.window,
                    keep=windows,
                    target=arguments.rows,
                    facts={**facts, **machine_facts()},
                )
    except KeyboardInterrupt:
        print("stopped: what was measured stays", file=sys.stderr)
    except (OSError, http.client.HTTPException) as error:
        failure = f"the server stopped answering: {type(error).__name__}: {error}"
    warm_up = max(2, len(windows) // 10) if arguments.warm_up is None else arguments.warm_up
    return conclude(windows, tally, failure=failure, warm_up=warm_up, target=arguments.rows, run=run)


if __name__ == "__main__":
    sys.exit(main())
