"""A Hugging Face folder that converters accept, made beside a checkpoint of shapes.py.

Links the weights and adds what a hub's folder has and ours does not need: special ids, a
generation_config.json, a tokenizer_config.json. No converter may ask a hub for anything.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

END_ID = 0  # some id has to end texts; the benchmarks ask for a fixed number of tokens


def make(folder: Path) -> Path:
    """Returns `folder`/hf, written anew."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    target = folder / "hf"
    target.mkdir(exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json"):
        link = target / name
        link.unlink(missing_ok=True)
        link.symlink_to((folder / name).resolve())
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), END_ID)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **ids}))
    (target / "generation_config.json").write_text(json.dumps({**ids, "do_sample": False}))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    end = next(token for token, index in vocabulary.items() if index == END_ID)
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token"), end)
    length = config["max_position_embeddings"]
    (target / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": length,
                **names,
            }
        )
    )
    return target
