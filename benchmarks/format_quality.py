"""What 4-bit weights cost in quality: KL divergence of next-token distributions from those of the
checkpoint's own (bf16) weights, for our formats and the peers', on real models; errors of the matrices.

    benchmarks/format_quality.py --text TEXT [--models FOLDER ...]     the embedded model is always the first
    benchmarks/format_quality.py --random                matrices of 1024 x 3072: normal and Student-t(5)

The weights are those that each format really holds: ours packed and unpacked, the peers' read from what
their own converters wrote. One evaluator in float32 for all: neither activations nor kernels matter. Prints a
table and appends JSON lines to results/format_quality.jsonl. Peers' environments: benchmarks/peers/setup.sh.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import quality_formats as formats
import torch
from quality_formats import Held, Matrices
from quality_statistics import Quality, Replaced, compare, log_probabilities
from safetensors.torch import save_file
from workers import EngineError

from narrows import _core
from narrows.models.checkpoint import Checkpoint, open_checkpoint
from narrows.models.config import read_config
from narrows.models.families import build_spec
from narrows.models.resolve import embedded_model
from narrows.models.spec import TransformerSpec
from narrows.models.tokenizer import Tokenizer

HERE = Path(__file__).parent
RESULTS = HERE / "results/format_quality.jsonl"
CONTEXT, WINDOWS, CHARACTERS = 256, 32, 12  # tokens of a window; characters of a token, at most
RANDOM_LAYERS, SEED = 4, 5
CODEBOOK_GROUPS = (64, 32)


@dataclass(frozen=True, slots=True)
class Row:
    """One format on one model. `quality` is None for random matrices and where `error` says why."""

    model: str
    format: str
    head: str
    bits_per_weight: float | None
    relative_rms: float | None
    quality: Quality | None
    types: dict[str, float]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in bf16: its matrices as floats, and its own answers."""

    name: str
    folder: Path
    spec: TransformerSpec
    checkpoint: Checkpoint
    matrices: Matrices
    windows: list[list[int]]

    @property
    def heads(self) -> frozenset[str]:
        head = self.spec.head
        names = [] if head is None else [part.name for part in head.weights]
        return frozenset([self.spec.embedding, *names])


def make_bf16(source: Path, target: Path) -> None:
    """The checkpoint in `target` with every tensor in bf16, and its config in the older spelling that the
    peers' converters read."""
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    rope = config.pop("rope_parameters", None) or {}
    config.update({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {})
    config.update(dtype="bfloat16", torch_dtype="bfloat16")
    (target / "config.json").write_text(json.dumps(config))
    shutil.copy(source / "tokenizer.json", target)
    held = open_checkpoint(source)
    save_file(
        {name: torch.from_numpy(held.floats(name)).to(torch.bfloat16) for name in held},
        target / "model.safetensors",
    )


def open_subject(name: str, folder: Path, text: str) -> Subject:
    checkpoint = open_checkpoint(folder)
    spec = build_spec(read_config(folder), checkpoint)
    ids = Tokenizer.from_folder(folder).encode(text[: CONTEXT * WINDOWS * CHARACTERS]) if text else []
    windows = [
        ids[i : i + CONTEXT] for i in range(0, min(len(ids), CONTEXT * WINDOWS) - CONTEXT + 1, CONTEXT)
    ]
    linears = [linear for layer in spec.layers for linear in (layer.qkv, layer.out, layer.up, layer.down)]
    linears += [] if spec.head is None else [spec.head]
    names = dict.fromkeys([spec.embedding, *(part.name for linear in linears for part in linear.weights)])
    return Subject(name, folder, spec, checkpoint, {each: checkpoint.floats(each) for each in names}, windows)


def trials(subject: Subject, pool: _core.ThreadPool) -> Iterator[tuple[str, str, Callable[[], Held]]]:
    """(format, head, what makes its weights), peers first."""
    matrices, heads = subject.matrices, subject.heads
    for peer, kind in formats.PEERS:
        yield (
            f"{peer} {kind}",
            "its own",
            lambda p=peer, k=kind: formats.hold_peer(p, k, subject.folder, matrices),
        )
    for ours in formats.our_formats():
        yield ours.name, ours.head, lambda o=ours: formats.hold_ours(o, matrices, heads, pool)
    for group in CODEBOOK_GROUPS:
        yield f"codebook g{group}", "p8", lambda g=group: formats.hold_codebook(g, matrices, heads, pool)


def measure(subject: Subject, pool: _core.ThreadPool) -> Iterator[Row]:
    exact = log_probabilities(subject.spec, Replaced(subject.checkpoint, {}), subject.windows)
    for name, head, hold in trials(subject, pool):
        try:
            held = hold()
        except EngineError as error:
            yield Row(subject.name, name, head, None, None, None, {}, str(error))
            continue
        quality = None
        if subject.windows:
            other = log_probabilities(
                subject.spec, Replaced(subject.checkpoint, held.values), subject.windows
            )
            quality = compare(exact, other, subject.windows)
        rms = formats.relative_rms(held.values, subject.matrices)
        yield Row(subject.name, name, head, held.bits_per_weight, rms, quality, held.types)


def make_random(target: Path, draw: Callable[[tuple[int, int]], np.ndarray]) -> None:
    """A folder that every converter takes, with random matrices; only their errors mean something."""
    hidden, inner, vocab = 1024, 3072, 1024
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": RANDOM_LAYERS, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 64, "intermediate_size": inner, "vocab_size": vocab, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 256, "tie_word_embeddings": True, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False, "dtype": "bfloat16", "torch_dtype": "bfloat16",
    }  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(config))
    alphabet = {chr(0x4E00 + i): i for i in range(vocab)}
    tokenizer = {"version": "1.0", "model": {"type": "BPE", "vocab": alphabet, "merges": []}}
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden // 2, hidden)}
    shapes |= {"self_attn.v_proj": (hidden // 2, hidden), "self_attn.o_proj": (hidden, hidden)}
    shapes |= {
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    tensors = {"model.embed_tokens.weight": draw((vocab, hidden)), "model.norm.weight": np.ones(hidden)}
    for layer in range(RANDOM_LAYERS):
        tensors |= {f"model.layers.{layer}.{part}.weight": draw(shape) for part, shape in shapes.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = np.ones(hidden)
    save_file(
        {name: torch.from_numpy(values).to(torch.bfloat16) for name, values in tensors.items()},
        target / "model.safetensors",
    )


def line(row: Row) -> str:
    head = f"{row.model:18} {row.format:26} {row.head:8}"
    if row.bits_per_weight is None or row.relative_rms is None:
        return f"{head} failed: {row.error[:110]}"
    figures = f"{head} {row.bits_per_weight:6.3f} {100 * row.relative_rms:7.3f} %"
    if (quality := row.quality) is None:
        return figures
    tail = " ".join(f"{value:9.2e}" for value in (quality.median, quality.p99, quality.p999, quality.max))
    same = f"{100 * quality.same_top:6.2f} %"
    return f"{figures} {quality.mean:9.3e} {tail} {same} {quality.perplexity_ratio:7.4f}"


def subjects(arguments: argparse.Namespace) -> Iterator[Subject]:
    if arguments.random:
        rng = np.random.default_rng(SEED)
        draws = {"normal": rng.standard_normal, "student-t(5)": lambda shape: rng.standard_t(5, shape)}
        for name, draw in draws.items():
            folder = arguments.folder / f"random-{name}"
            make_random(folder, lambda shape, draw=draw: 0.02 * draw(shape))
            yield open_subject(name, folder, "")
        return
    text = arguments.text.read_text(encoding="utf-8")
    for source in (embedded_model(), *arguments.models):
        name = "embedded" if source == embedded_model() else source.name
        folder = arguments.folder / f"quality-{name}"
        if not (folder / "model.safetensors").exists():
            make_bf16(source, folder)
        yield open_subject(name, folder, text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, help="held-out text")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="folders of further models")
    parser.add_argument("--random", action="store_true", help="errors of random matrices instead")
    parser.add_argument("--folder", type=Path, default=HERE / ".models", help="where conversions are kept")
    arguments = parser.parse_args()
    if not arguments.random and arguments.text is None:
        parser.error("--text is needed: a file of held-out text")
    pool, now = _core.ThreadPool(_core.effective_cpus()), int(time.time())
    columns = "bits/w  rms err    mean KL    median      99 %    99.9 %       max   same top  ppl ratio"
    print(f"{'model':18} {'format':26} {'head':8} {columns}", flush=True)
    with RESULTS.open("a") as out:
        for subject in subjects(arguments):
            for row in measure(subject, pool):
                print(line(row), flush=True)
                out.write(json.dumps({"time": now, **asdict(row)}) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
