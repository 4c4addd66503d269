"""What `narrows serve` prints before it serves: the model, what it costs, how loading went, the address.

In: an OpenedModel and the address. Out: lines of text.
"""

from __future__ import annotations

from narrows.serve.options import OpenedModel

URL_PREFIX = "listening on "


def banner(opened: OpenedModel, url: str, *, start_s: float) -> str:
    """`start_s`: from the verb's start until now."""
    info = opened.client.info
    kv_bytes = info.num_blocks * info.block_size * info.kv_bytes_per_token
    rows = [
        ("model", f"{opened.name} ({opened.loaded.info.folder})"),
        *((name.replace("_", " "), value) for name, value in info.description.items()),
        ("context", f"{info.max_context} tokens"),
        ("kv blocks", f"{info.num_blocks} of {info.block_size} tokens, {kv_bytes / 1e6:.0f} MB"),
        ("step reads", f"{info.weight_bytes_per_step / 1e6:.1f} MB of weights"),
        ("requests", f"{info.max_running} running, {info.max_waiting} waiting"),
        ("loading", _phases(opened.times_s, start_s)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join([*(f"{name:<{width}}  {value}" for name, value in rows), URL_PREFIX + url])


def _phases(seconds: dict[str, float], start_s: float) -> str:
    """Each phase of loading the model; what is left of the whole is Python's imports."""
    imports_s = max(0.0, start_s - sum(seconds.values()))
    phases = {"imports": imports_s, **seconds, "in all": start_s}
    return ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in phases.items())
