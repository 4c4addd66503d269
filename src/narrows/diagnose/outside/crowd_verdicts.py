"""Verdicts on requests that meet: batching, queues, prompts beside answers, cancelling; and on failures."""

from __future__ import annotations

from typing import Final

from narrows.diagnose.outside.account import Account
from narrows.diagnose.outside.findings import Finding
from narrows.diagnose.outside.seen import LevelSeen, Seen
from narrows.diagnose.outside.words import interval, plural, seconds, three

WORTH: Final = 0.01  # of a request's time
GAIN: Final = 1.3  # of throughput, that deserves the name of batching
COLLAPSE: Final = 0.75  # of the best throughput
STILL: Final = 0.5  # of a prompt's own reading time, in one gap of the stream: nothing else was done
SLOWED: Final = 4.0  # times the usual gap
READ_GAPS: Final = 4.0  # usual gaps that reading the prompt must take to be seen
TELLING: Final = 1.5  # how much longer the request after a cut must take if it was ignored
IGNORED: Final = 0.5  # of that excess
AFTER_TOKENS: Final = 16  # for nobody, per stream cut: some steps end before the news of a cut arrives


def batching(seen: Seen, now: Account) -> Finding | None:
    """What several streams gain together, and what each pays. None where the server takes one at a time."""
    levels = [level for level in seen.levels if level.ok]
    if len(levels) < 2 or seen.parallel == 1 or levels[0].tokens_per_s <= 0:
        return None
    best = max(levels, key=lambda level: level.tokens_per_s)
    gain = best.tokens_per_s / levels[0].tokens_per_s
    evidence, share = _throughputs(levels), now.share("sharing")
    if gain < GAIN:
        return Finding(
            "no-batching",
            "trouble",
            share,
            f"{levels[-1].concurrency} requests at once together get no more than one alone: steps are not "
            "shared between requests, or one stream uses up the machine's compute already",
            evidence,
            "turn on continuous batching if the server has it; if it batches already, it is short of compute",
        )
    words = f"it batches: {best.concurrency} at once bring {gain:.2g} times the throughput of one"
    if share < WORTH:
        return Finding("batches", "fine", share, words, evidence)
    return Finding(
        "batches",
        "costs",
        share,
        f"{words}, and each of {now.streams} waits longer for its tokens",
        evidence,
        "the price of throughput: fewer streams at once, or a second replica, give each its pace back",
    )


def queue(seen: Seen, now: Account) -> Finding | None:
    """More were asked than answered at one time, and the others waited. None where all were taken at once."""
    parallel = seen.parallel
    if parallel is None:
        return None
    last = seen.levels[-1]
    evidence = [
        f"of {last.concurrency} sent at once {last.decoding} were under way together; the last one waited "
        f"{seconds(last.ttft_max_s)} for its first token"
    ]
    if parallel > 1:
        return Finding(
            "queues",
            "trouble",
            now.share("queue"),
            f"at most {parallel} answers are under way; more requests wait for one of them to end",
            tuple(evidence),
            "raise the limit where memory allows (vLLM: --max-num-seqs; SGLang: --max-running-requests; "
            "llama.cpp: --parallel; narrows serve: --max-running), or add a replica",
        )
    return Finding(
        "one-at-a-time",
        "trouble",
        now.share("queue"),
        "the server answers one request at a time; all others wait for it to end",
        (*evidence, *_throughputs([level for level in seen.levels if level.ok])),
        "turn on batching (llama.cpp: --parallel; Ollama: OLLAMA_NUM_PARALLEL), or use a server that batches",
    )


def _throughputs(levels: list[LevelSeen]) -> tuple[str, ...]:
    return (
        "tokens/s at " + ", ".join(f"{one.concurrency}: {three(one.tokens_per_s)}" for one in levels),
        "TPOT at "
        + ", ".join(f"{one.concurrency}: {seconds(one.tpot_s.value)}" for one in levels if one.tpot_s),
    )


def collapse(seen: Seen, now: Account) -> Finding | None:
    levels = [level for level in seen.levels if level.ok]
    if len(levels) < 2 or seen.parallel == 1:
        return None
    best, last = max(levels, key=lambda level: level.tokens_per_s), levels[-1]
    is_whole = last.ok == last.concurrency * last.rounds
    if not is_whole or last.tokens_per_s > COLLAPSE * best.tokens_per_s:
        return None
    left = last.tokens_per_s / best.tokens_per_s
    return Finding(
        "collapses",
        "trouble",
        0.0,
        f"more load makes it slower: {last.concurrency} at once get {left:.0%} of what {best.concurrency} do",
        _throughputs(levels),
        f"let no more than {best.concurrency} in at once; preempted requests, a full key/value cache or "
        "threads that fight for cores look like this",
    )


def refusals(seen: Seen, now: Account) -> Finding | None:
    count = seen.failures.refused
    if count == 0:
        return None
    level = next((one for one in seen.levels if one.refused), None)
    where = f", first with {level.concurrency} at once" if level else ", even alone"
    told = [value for one in seen.levels for value in one.retry_after_s]
    says = (
        f"Retry-After says {min(told):g} to {max(told):g} s"
        if told
        else "no Retry-After says when to come back"
    )
    return Finding(
        "refuses",
        "trouble",
        0.0,
        f"it turns requests away when it is full{where}: {plural(count, 'answer')} of 429 or 503",
        (says,),
        "clients should wait as Retry-After says and then try again, each after a random while; a bounded "
        "queue is better than an endless one",
    )


def meeting(seen: Seen, now: Account) -> Finding | None:
    """A prompt beside an answer. None where prompts are read too fast to tell, or wait for the end of it."""
    found = seen.meeting
    if found is None or seen.parallel == 1 or found.alone_s < READ_GAPS * found.gap_s:
        return None
    evidence = (
        f"usually a chunk every {seconds(found.gap_s)}; while a prompt of {found.prompt_tokens:,} tokens is "
        f"read, the longest gap is {interval(found.longest_gap_s)}, and {seconds(found.lost_s)} are lost",
        f"that prompt's TTFT: {seconds(found.alone_s)} alone, {seconds(found.ttft_s)} beside the answer",
    )
    share = now.share("meeting")
    if found.longest_gap_s.value < SLOWED * found.gap_s:
        return Finding("interleaves", "fine", share, "answers go on while a long prompt is read", evidence)
    if found.longest_gap_s.value < STILL * found.alone_s:
        return Finding(
            "slows",
            "costs",
            share,
            "while a long prompt is read, running answers get a token between its pieces: slower, but never "
            "standing still",
            evidence,
            "smaller pieces make the gaps shorter and the new prompt's wait longer",
        )
    return Finding(
        "freezes",
        "trouble",
        share,
        "running answers stand still while a long prompt of somebody else is read",
        evidence,
        "read prompts in pieces (chunked prefill), and smaller ones: vLLM --max-num-batched-tokens, "
        "SGLang --chunked-prefill-size, llama.cpp --batch-size and --ubatch-size, narrows serve "
        "--prefill-chunk",
    )


def cancel(seen: Seen, now: Account) -> Finding | None:
    """By the server's own counter where it has one, else by the next request's time; None: no telling."""
    found = seen.cancel
    if found is None:
        return None
    evidence = [
        f"{plural(found.cut, 'stream')} cut midway; the request after takes {seconds(found.e2e_s)}, alone "
        f"{seconds(found.alone_s)}, beside them it would be {seconds(found.ignored_s)}"
    ]
    can_tell = found.ignored_s > TELLING * found.alone_s
    is_slow = found.e2e_s - found.alone_s > IGNORED * (found.ignored_s - found.alone_s)
    is_counted = found.tokens_after is not None and found.tokens_after > AFTER_TOKENS * found.cut
    if found.tokens_after is not None:
        evidence.append(
            f"by its own counter it generated {plural(found.tokens_after, 'token')} after the cut for nobody"
        )
    if is_counted or (can_tell and is_slow):
        return Finding(
            "ignores-cancels",
            "trouble",
            0.0,
            "it goes on generating when the client has gone: closed tabs and timeouts cost everybody else",
            tuple(evidence),
            "let the server (and a proxy in front) notice closed connections; until then ask for few tokens",
        )
    if can_tell or found.tokens_after is not None:
        return Finding("cancels", "fine", 0.0, "it stops when the client goes away", tuple(evidence))
    return None


def failures(seen: Seen, now: Account | None) -> Finding | None:
    found = seen.failures
    if found.failed == 0:
        return None
    counted = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
    return Finding(
        "failures",
        "trouble",
        0.0,
        f"{found.failed} of {plural(found.judged, 'request')} failed: {counted}",
        tuple(f"{kind}: {text}" for kind, text in found.examples.items() if text),
        "the server's log at these times says more; figures are of the requests that succeeded",
    )
