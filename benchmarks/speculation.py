"""What speculation gives and what it costs: plain and speculated answers, by turns in one run.

Three questions. `times`: T(m), the time of a step that verifies m - 1 guesses, in a given shape. `answers`:
real models answer prompts, greedily; the answers must be ==. `texts`: a model of any weights is made to say a
given text, so that steps cost what they cost in its shape and guesses are as right as the text is repetitive
(the sampler draws one token a step there, whatever is accepted). Prints tables, appends JSON lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from narrows.engine.client import EngineStats, GenerationRequest, SamplingParams
from narrows.engine.config import EngineConfig
from narrows.engine.engine import Engine
from narrows.engine.step import Sampled, SequenceResult, SequenceStep, Step, StepResult
from narrows.engine.worker import EngineWorker
from narrows.models.resolve import resolve_model
from narrows.models.tokenizer import Tokenizer
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions

RESULTS = Path(__file__).parent / "results" / "speculation.jsonl"
ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
KINDS = ("off", "on")


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts that are answered one after another, each with its tokens."""

    name: str
    requests: list[GenerationRequest]
    truths: list[list[int]] | None = None  # `texts`: what is said


class Saying(CpuRunner):
    """Draws the tokens it was told, and takes the time of the model for it."""

    truths: list[list[int]]

    def run(self, step: Step) -> StepResult:
        result = super().run(step)
        pairs = zip(step.sequences, result.sequences, strict=True)
        return StepResult(tuple([self._say(*pair) for pair in pairs]))

    def _say(self, sequence: SequenceStep, outcome: SequenceResult) -> SequenceResult:
        if not sequence.sample:
            return outcome
        num_prompt = self._states[sequence.request_id][2]
        truth = self.truths[(sequence.request_id - 1) % len(self.truths)]
        num_certain = len(sequence.token_ids) - sequence.num_draft
        begin = sequence.start + num_certain - num_prompt
        drawn = [Sampled(truth[begin])]
        for index, guess in enumerate(sequence.token_ids[num_certain:], start=1):
            if drawn[-1].token_id != guess:
                break
            drawn.append(Sampled(truth[begin + index]))
        return replace(outcome, drawn=tuple(drawn))


class Side:
    """One engine, plain or speculating."""

    def __init__(
        self, folder: Path, weights: str, kind: str, runner_type: type[CpuRunner] = CpuRunner
    ) -> None:
        options = CpuOptions(weights=weights, num_blocks=512)  # type: ignore[arg-type]
        self.runner = runner_type.from_folder(folder, options)
        self.tokenizer = Tokenizer.from_folder(folder, vocab=self.runner.info.vocab_size)
        config = EngineConfig(speculation=kind)  # type: ignore[arg-type]
        self.client = EngineWorker(
            Engine(self.runner, self.tokenizer, eos_ids=self.tokenizer.eos_ids, config=config)
        )

    def answer(self, request: GenerationRequest) -> tuple[list[int], float]:
        """(tokens, seconds from the first to the last)."""
        tokens: list[int] = []
        decode_s = 0.0
        for chunk in self.client.submit(request):
            tokens += [token.token_id for token in chunk.tokens]
            if chunk.timing is not None:
                decode_s = chunk.timing.decode_s
        return tokens, decode_s


def measure_times(folder: Path, weights: str, context: int, rounds: int) -> dict[str, object]:
    """Median seconds of steps of m rows after `context` tokens, all m by turns."""
    runner = CpuRunner.from_folder(folder, CpuOptions(weights=weights, num_blocks=256))  # type: ignore[arg-type]
    blocks = tuple(range(-(-(context + max(ROWS)) // runner.info.block_size)))
    ids = tuple(range(100, 100 + context))
    runner.add(1, SamplingParams(temperature=0.0), ids)
    for start in range(0, context, 256):
        runner.run(Step((SequenceStep(1, ids[start : start + 256], start, blocks, False),)))
    seconds: dict[int, list[float]] = {rows: [] for rows in ROWS}
    for number in range(rounds):
        for rows in ROWS:
            tokens = tuple(500 + (7 * number + i) % 1000 for i in range(rows))
            step = Step((SequenceStep(1, tokens, context, blocks, True, num_draft=rows - 1),))
            began_s = time.perf_counter()
            runner.run(step)
            seconds[rows].append(time.perf_counter() - began_s)
    runner.close()
    medians = {rows: statistics.median(found) for rows, found in seconds.items()}
    print(f"\nT(m) of {folder.name}, {weights}, after {context} tokens")
    print("   m      ms  T(m)/T(1)   spread ms")
    for rows, middle in medians.items():
        low, high = min(seconds[rows]) * 1e3, max(seconds[rows]) * 1e3
        print(f"{rows:4} {middle * 1e3:7.2f} {middle / medians[1]:10.2f}   {low:.2f} - {high:.2f}")
    times = {str(rows): round(middle * 1e3, 3) for rows, middle in medians.items()}
    shape = {"shape": folder.name, "weights": weights, "context": context}
    return {"question": "times", **shape, "ms": times, "rounds": rounds}


def compare(label: str, sides: dict[str, Side], case: Case, rounds: int, end_s: float) -> dict[str, object]:
    """Each prompt by both, who is first changing; per-prompt medians, and the ratio over all prompts."""
    seconds: dict[str, list[list[float]]] = {kind: [[] for _ in case.requests] for kind in KINDS}
    before = {kind: sides[kind].client.stats() for kind in KINDS}
    num_tokens = 0
    num_rounds = 0
    while num_rounds < rounds and (num_rounds == 0 or time.monotonic() < end_s):
        for index, request in enumerate(case.requests):
            answers = {}
            for kind in KINDS if (num_rounds + index) % 2 else KINDS[::-1]:
                answers[kind], decode_s = sides[kind].answer(request)
                seconds[kind][index].append(decode_s)
            if answers["off"] != answers["on"]:
                raise SystemExit(f"{label}, {case.name}: the answers differ")
            num_tokens += len(answers["on"])
        num_rounds += 1
    medians = {kind: [statistics.median(found) for found in seconds[kind]] for kind in KINDS}
    ratios = sorted(off / on for off, on in zip(medians["off"], medians["on"], strict=True))
    ratio = sum(medians["off"]) / sum(medians["on"])
    stats = _difference(before["on"], sides["on"].client.stats())
    steps = _difference(before["off"], sides["off"].client.stats())[0] / max(1, stats[0])
    share = stats[2] / stats[1] if stats[1] else 0.0
    print(
        f"{label:18} {case.name:16} {len(ratios):4} {num_tokens // num_rounds:6} {steps:6.2f} {share:6.0%} "
        f"{ratio:7.3f} {ratios[0]:7.3f} {ratios[-1]:6.2f}",
        flush=True,
    )
    return {
        "question": "answers" if case.truths is None else "texts",
        "model": label,
        "case": case.name,
        "prompts": len(ratios),
        "tokens": num_tokens // num_rounds,
        "rounds": num_rounds,
        "plain_steps_per_step": round(steps, 3),
        "accepted": round(share, 3),
        "drafted": stats[1] // num_rounds,
        "ratio": round(ratio, 4),
        "lowest": round(ratios[0], 4),
        "highest": round(ratios[-1], 4),
        "plain_ms_per_token": round(sum(medians["off"]) / max(1, num_tokens // num_rounds) * 1e3, 4),
    }


def _difference(before: EngineStats, after: EngineStats) -> tuple[int, int, int]:
    """(steps, drafted, accepted) in between."""
    return (
        after.steps_total - before.steps_total,
        after.drafted_tokens_total - before.drafted_tokens_total,
        after.accepted_tokens_total - before.accepted_tokens_total,
    )


def read_prompts(path: Path, count: int) -> dict[str, list[str]]:
    """First turns of a Spec-Bench or MT-Bench file by category, `count` of each."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        of_category = found.setdefault(str(entry["category"]), [])
        if len(of_category) < count:
            of_category.append(str(entry["turns"][0]))
    return found


def request_of(ids: Sequence[int], num_tokens: int) -> GenerationRequest:
    return GenerationRequest(
        tuple(ids), SamplingParams(temperature=0.0), max_tokens=num_tokens, ignore_eos=True
    )


def answer_cases(side: Side, prompts: dict[str, list[str]], num_tokens: int) -> Iterator[Case]:
    """Every category; a prompt that is too long for the model keeps its end."""
    most = side.client.info.max_context - num_tokens
    for category, texts in prompts.items():
        ids = [side.tokenizer.encode(text)[-most:] for text in texts]
        yield Case(category, [request_of(one, num_tokens) for one in ids if one])


def text_cases(encode: Callable[[str], list[int]], path: Path, num_tokens: int) -> Iterator[Case]:
    """A file's text as it is, said again whole, said again with a word changed every 30 tokens."""
    ids = encode(path.read_text()[:60_000])
    pieces = [ids[i : i + num_tokens] for i in range(0, 4 * num_tokens, num_tokens)]
    prompts = [ids[i : i + 32] for i in range(5 * num_tokens, 5 * num_tokens + 128, 32)]
    words = ids[-4000:]
    edited = [[words[i] if i % 30 == 29 else token for i, token in enumerate(piece)] for piece in pieces]
    requests = [request_of(prompt, num_tokens) for prompt in prompts]
    yield Case("new text", requests, pieces)
    requests = [
        request_of([*prompt, *piece], num_tokens) for prompt, piece in zip(prompts, pieces, strict=True)
    ]
    yield Case("copy", requests, pieces)
    yield Case("copy with edits", requests, edited)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=("times", "answers", "texts"))
    parser.add_argument("folders", nargs="*", type=Path, help="models; default: the embedded one")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--prompts", type=Path, help="JSON lines with `category` and `turns`")
    parser.add_argument("--text", type=Path, help="a long text")
    parser.add_argument("--each", type=int, default=4, help="prompts of each category")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=50.0, help="seconds for all rounds of a model")
    arguments = parser.parse_args()
    rows = [row for folder in arguments.folders or [resolve_model(None)] for row in run(folder, arguments)]
    with RESULTS.open("a") as out:
        for row in rows:
            out.write(json.dumps({"time": int(time.time()), **row}) + "\n")


def run(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    if arguments.question == "times":
        yield measure_times(folder, arguments.weights, arguments.context, arguments.rounds)
        return
    runner_type = CpuRunner if arguments.question == "answers" else Saying
    sides = {kind: Side(folder, arguments.weights, kind, runner_type) for kind in KINDS}
    if arguments.question == "answers":
        prompts = read_prompts(arguments.prompts, arguments.each)
        cases = list(answer_cases(sides["on"], prompts, arguments.tokens))
    else:
        cases = list(text_cases(sides["on"].tokenizer.encode, arguments.text, arguments.tokens))
    heads = f"{'num':>4} {'tokens':>6} {'/step':>6} {'right':>6}   ratio  lowest highest"
    print(f"\n{'model':18} {'prompts':16} {heads}")
    for case in cases:
        if case.truths is not None:
            for side in sides.values():
                side.client = _fresh(side, case.truths)
        end_s = time.monotonic() + arguments.limit / len(cases)
        yield compare(folder.name, sides, case, arguments.rounds, end_s)
    for side in sides.values():
        side.client.close()


def _fresh(side: Side, truths: list[list[int]]) -> EngineWorker:
    """Request ids, which name the texts, begin at 1 with every engine."""
    assert isinstance(side.runner, Saying)
    side.runner.truths = truths
    engine = side.client._engine
    config = EngineConfig(speculation="off" if engine._speculator is None else "on")
    return EngineWorker(Engine(side.runner, side.tokenizer, eos_ids=frozenset(), config=config))


if __name__ == "__main__":
    main()
