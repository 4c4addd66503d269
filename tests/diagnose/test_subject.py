"""What a bare config.json allows to be told, and what it must be refused for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrows.diagnose.assemble import report
from narrows.diagnose.observe import without_running
from narrows.diagnose.setup import operators, parameters
from narrows.diagnose.subject import EMBEDDED_NAME, open_subject
from narrows.errors import InvalidModel, UnsupportedModel
from narrows.runners.cpu import CpuRunner
from narrows.runners.options import CpuOptions
from narrows.runners.plan import make_plan
from tests.diagnose.synthetic import LLAMA, machine, question, subject, workload
from tests.models.tiny import VARIANTS, save_tiny


def test_a_bare_config_gets_figures_and_says_what_is_missing(tmp_path: Path) -> None:
    found = report(without_running(question(subject(tmp_path))), {})
    assert found.machine.source == "predicted"
    assert any("the weights" in missing for missing in found.model.missing)
    assert found.now.tpot_s > 0
    assert found.verdicts
    assert found.remedies
    assert any("nothing was run" in note for note in found.notes)


def test_a_folder_without_weights_is_a_bare_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = open_subject(str(tmp_path))
    assert found.folder is None
    assert found.name == tmp_path.name


def test_the_embedded_model_is_the_default() -> None:
    found = open_subject(None)
    assert found.name == EMBEDDED_NAME
    assert found.folder is not None
    assert open_subject(None, config_only=True).folder is None
    assert open_subject(None, config_only=True).spec.hidden == found.spec.hidden


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"])
@pytest.mark.parametrize("family", ["llama", "something_new"])
def test_a_missing_field_is_named(tmp_path: Path, field: str, family: str) -> None:
    values = {key: value for key, value in LLAMA.items() if key not in (field, "architectures")}
    (tmp_path / "config.json").write_text(json.dumps({**values, "model_type": family}))
    with pytest.raises(InvalidModel, match=field):
        open_subject(str(tmp_path))


def test_an_unknown_architecture_is_counted_as_a_plain_decoder_and_said_to_be(tmp_path: Path) -> None:
    known = subject(tmp_path)
    unknown = subject(
        tmp_path, model_type="newcomer", architectures=["NewcomerForCausalLM"], rope_scaling={"x": 1}
    )
    assert not unknown.is_known
    assert any("'newcomer'" in missing for missing in unknown.missing)
    assert parameters(unknown.spec) == parameters(known.spec)
    found = report(without_running(question(unknown)), {})
    assert all(remedy.command is None for remedy in found.remedies)
    assert any(remedy.gain > 1 for remedy in found.remedies)


def test_features_whose_cost_is_not_counted_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="num_local_experts"):
        subject(tmp_path, num_local_experts=8)
    with pytest.raises(UnsupportedModel, match="kv_lora_rank"):
        subject(tmp_path, model_type="deepseek", kv_lora_rank=512)


def test_a_quantized_checkpoint_and_a_nested_config_say_what_they_were_counted_as(tmp_path: Path) -> None:
    quantized = subject(tmp_path, quantization_config={"bits": 4})
    assert any("quantization_config" in missing for missing in quantized.missing)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wrapper", "text_config": LLAMA}))
    nested = open_subject(str(tmp_path))
    assert any("text_config" in missing for missing in nested.missing)
    assert parameters(nested.spec) == parameters(quantized.spec)


def test_wrong_paths_are_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidModel, match="is a file"):
        open_subject(str(tmp_path / "notes.txt"))
    with pytest.raises(InvalidModel, match="--config-only takes a folder"):
        open_subject("owner/name", config_only=True)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidModel, match="not valid JSON"):
        open_subject(str(tmp_path))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bytes_are_those_of_the_runners_plan_for_every_family(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    found = open_subject(str(tmp_path))
    setup = question(found, workload(20, 9), machine()).setup(2)
    plan = make_plan(found.spec, setup.recipe)
    assert setup.weights.packed == plan.num_bytes
    runner = CpuRunner.from_folder(tmp_path, CpuOptions(num_blocks=8, threads=1, cache=False))
    assert setup.kv_bytes_per_token == runner.info.kv_bytes_per_token
    held = setup.weights.packed + setup.weights.embedding_rows
    assert setup.memory_bytes == held + 32 * runner.info.kv_bytes_per_token  # 29 tokens: two blocks
    runner.close()
    matrices = sum(matrix.shape.num_bytes for matrix in plan.matrices)
    read = sum(count * op.weight_bytes for op, count in operators(setup, "decode") if op.group != "other")
    assert read == matrices
