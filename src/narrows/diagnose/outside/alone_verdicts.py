"""Verdicts on requests sent alone: fixed cost, prompts, known prefixes, the answer's pace and its chunks."""

from __future__ import annotations

from typing import Final

from narrows.diagnose.outside.account import Account, chunk_wait_s
from narrows.diagnose.outside.findings import Finding
from narrows.diagnose.outside.seen import Seen
from narrows.diagnose.outside.words import interval, per_second, plural, seconds

CHUNKED: Final = 1.3  # tokens per chunk: an end token or a split character makes a few percent
BUNCHED: Final = 0.3  # of the chunks
BUNCHED_S: Final = 1e-3  # between tokens; faster ones share a read by nature
LATE_SHARE: Final = 0.05
LATE_GAPS: Final = 2
CACHED: Final = 0.6  # of a new prompt's TTFT
READ_SHARE: Final = 0.3  # of TTFT that is reading: less of it hides a cache
GROWTH: Final = 1.2  # of TPOT, from a short to a long prompt


def overhead(seen: Seen, now: Account) -> Finding | None:
    if seen.line is None:
        return None
    found = seen.line.overhead_s
    evidence = [f"TTFT at no prompt tokens, by the line: {interval(found)}"]
    if seen.connect_s is not None:
        evidence.append(
            f"opening a connection takes {seconds(seen.connect_s)}; it is done ahead and not in TTFT"
        )
    return Finding(
        "overhead",
        "costs",
        now.share("overhead"),
        f"a fixed cost of {seconds(found.value)} before any prompt token counts: network, HTTP, tokenizer, "
        "scheduling, the first step",
        tuple(evidence),
        "compare with the same request sent from the server's own machine: the difference is the network; "
        "what is left is the server's",
    )


def prefill(seen: Seen, now: Account) -> Finding | None:
    line = seen.line
    if line is None:
        return None
    read_s = now.parts["prefill"] + now.parts["attention"]
    evidence = [f"a prompt token costs {interval(line.per_token_s)}: {per_second(line.per_token_s.value)}"]
    if now.prompt_tokens > line.longest:
        evidence.append(f"prompts of over {line.longest:,} tokens are extrapolated")
    return Finding(
        "prefill",
        "costs",
        now.share("prefill"),
        f"reading the prompt: {seconds(read_s)} for {plural(now.prompt_tokens, 'token')}",
        tuple(evidence),
        "send shorter prompts; keep what they have in common at their beginning, for a prefix cache to find; "
        "on the server weights or activations in fewer bits, or more compute",
    )


def attention(seen: Seen, now: Account) -> Finding | None:
    line = seen.line
    if line is None or line.bend is None or line.per_token_squared_s == 0:
        return None
    return Finding(
        "attention",
        "costs",
        now.share("attention"),
        "TTFT grows faster than the prompt: attention over long prompts, or short ones that fill no step",
        (
            f"at {line.longest:,} tokens {line.bend.value:.0%} ({line.bend.low:.0%} to {line.bend.high:.0%}) "
            "of TTFT goes with the square of the length",
        ),
        "halving a long prompt more than halves its wait",
    )


def prefix(seen: Seen, now: Account) -> Finding | None:
    """A known beginning: answered from a cache, or read again; None where reading is too fast to tell."""
    found, line = seen.prefix, seen.line
    if found is None or line is None:
        return None
    if found.fresh_s.value - line.overhead_s.value < READ_SHARE * found.fresh_s.value:
        return None
    evidence = (
        f"{found.prompt_tokens:,} tokens for the first time: TTFT {interval(found.fresh_s)}",
        f"the same beginning with another end: {interval(found.again_s)}",
    )
    if found.again_s.value < CACHED * found.fresh_s.value and found.again_s.high < found.fresh_s.low:
        return Finding("prefix-cache", "fine", 0.0, "a known beginning is not read again", evidence)
    return Finding(
        "no-prefix-cache",
        "trouble",
        0.0,
        "a beginning that the server has just read is read again: every turn of a conversation pays for all "
        "turns before it",
        evidence,
        "turn on prefix caching (vLLM: --enable-prefix-caching; llama.cpp keeps one prefix per slot); behind "
        "several replicas send a conversation to the same one",
    )


def decode(seen: Seen, now: Account) -> Finding | None:
    if not seen.decode:
        return None
    first = seen.decode[0]
    return Finding(
        "decode",
        "costs",
        now.share("decode"),
        f"writing the answer token by token: {seconds(first.tpot_s.value)} each even when nobody else asks",
        (f"TPOT alone: {interval(first.tpot_s)}, {per_second(first.tpot_s.value)}",),
        "a step reads all weights for one token: fewer bits per weight, a smaller model or speculation make "
        "it shorter, more streams at once make it cheaper",
    )


def context(seen: Seen, now: Account) -> Finding | None:
    if len(seen.decode) < 2:
        return None
    first, last = seen.decode[0], seen.decode[-1]
    if last.tpot_s.value < GROWTH * first.tpot_s.value or last.tpot_s.low <= first.tpot_s.high:
        return None
    return Finding(
        "context",
        "costs",
        now.share("context"),
        "tokens come slower behind a long prompt: keys and values are read at every step",
        tuple(f"TPOT behind {one.prompt_tokens:,} tokens: {interval(one.tpot_s)}" for one in (first, last)),
        "shorten what is kept of a conversation; on the server keys and values in fewer bits",
    )


def irregular(seen: Seen, now: Account) -> Finding | None:
    often = [one for one in seen.decode if one.num_late >= LATE_GAPS and one.late_share >= LATE_SHARE]
    if not often:
        return None
    worst = max(often, key=lambda one: one.late_share)
    return Finding(
        "irregular",
        "trouble",
        now.share("irregular"),
        "the answer stops now and then although nobody else of ours asks",
        (
            f"{worst.num_late} of {worst.num_gaps} gaps are over five times the median of "
            f"{seconds(worst.gap_s)}, the longest {seconds(worst.longest_gap_s)}; they take "
            f"{worst.late_share:.0%} of the answering time",
        ),
        "look for other users, a busy or throttled processor, garbage collection or a proxy between",
    )


def chunks(seen: Seen, now: Account) -> Finding | None:
    found = max(
        (one for one in seen.decode if one.tokens_per_chunk is not None),
        key=lambda one: one.tokens_per_chunk or 0.0,
        default=None,
    )
    if found is None or (found.tokens_per_chunk or 0.0) < CHUNKED:
        return None
    if found.sizes_vary is None:
        cause = "tokens are held back and sent together, or guessed several at a time (speculation)"
    elif found.sizes_vary:
        cause = "chunks of many sizes: guesses that came true (speculation), or a buffer emptied by the clock"
    else:
        cause = "chunks of one size: tokens are held back and sent together"
    return Finding(
        "chunks",
        "trouble",
        now.share("chunks"),
        f"chunks hold {found.tokens_per_chunk:.2g} tokens; {cause}",
        (
            f"a chunk every {seconds(found.gap_s)}, while a token takes {seconds(found.tpot_s.value)}",
            f"if they are held back, the first one waits {seconds(chunk_wait_s(seen))}",
        ),
        "where the server batches its output (vLLM: --stream-interval), set that to one token; with "
        "speculation it is a gain, not a fault",
    )


def bunched(seen: Seen, now: Account) -> Finding | None:
    found = max(seen.decode, key=lambda one: one.bunched_share, default=None)
    if found is None or found.bunched_share < BUNCHED or found.tpot_s.value < BUNCHED_S:
        return None
    return Finding(
        "bunched",
        "trouble",
        0.0,
        f"{found.bunched_share:.0%} of the chunks arrive together with the one before: something between "
        "collects them",
        (f"something arrives every {seconds(found.gap_s)}, a token takes {seconds(found.tpot_s.value)}",),
        "turn off buffering in the proxy (nginx: proxy_buffering off, or the header X-Accel-Buffering: no) "
        "and compression of event streams",
    )
