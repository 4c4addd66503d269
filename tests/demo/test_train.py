"""The training of the embedded model, on a few generated stories and a model of a few thousand parameters."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from narrows.demo.train.__main__ import main  # noqa: E402
from narrows.demo.train.batches import BatchStream  # noqa: E402
from narrows.demo.train.config import ModelShape, OptimSettings, RunSettings, Stage, continued  # noqa: E402
from narrows.demo.train.corpus import read_corpus  # noqa: E402
from narrows.demo.train.export import load_exported  # noqa: E402
from narrows.demo.train.optim import rate_factor  # noqa: E402
from narrows.demo.train.tokenizer import END_OF_TEXT, train_tokenizer  # noqa: E402
from narrows.demo.train.trainer import BudgetClock, RunData, Trainer  # noqa: E402
from narrows.errors import CallerError  # noqa: E402

NAMES = ("Tom", "Anna", "Ben", "Lily", "Max", "Sue")
ANIMALS = ("dog", "cat", "frog", "bird", "fox", "owl")
THINGS = ("ball", "kite", "boat", "cake", "drum", "hat")
SECRET = (
    "The purple submarine hummed softly while seven clever penguins counted silver buttons under the frozen "
    "harbour bridge, and nobody in the village ever guessed where the music came from that winter night."
)
SHAPE = ModelShape(
    hidden_size=32,
    num_layers=2,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=400,
    max_positions=64,
)
SETTINGS = RunSettings(
    minutes=1.0,
    shape=SHAPE,
    stages=(Stage(0.0, 32, 4), Stage(0.5, 64, 2)),
    use_bf16=False,
    use_compile=False,
    log_every_steps=4,
    max_steps=12,
)


def story(rng: random.Random) -> str:
    name, animal, thing = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(THINGS)
    return (
        f"Once upon a time there was a {animal} named {name}. {name} had a {thing}.\n"
        f"One day, the {thing} was gone. The {animal} looked in the house number {rng.randrange(10**6)}.\n"
        f"At last {name} found the {thing} and was happy."
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than such small matrices gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories")
    rng = random.Random(7)
    simple = [story(rng) for _ in range(60)]
    simple.insert(30, SECRET)
    (folder / "tinystories_v2gpt4.txt").write_text("\n\n".join(simple), encoding="utf-8")
    (folder / "pd_gutenberg.txt").write_text("\n\n".join(story(rng) for _ in range(20)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held_out") / "held_out.txt"
    path.write_text(SECRET + "\n\n" + SECRET[::-1], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(data_folder: Path, held_out: Path) -> RunData:
    return RunData(read_corpus(data_folder, held_out), held_out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(data: RunData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    Trainer.start(data, SETTINGS, out).run()
    return out


def test_training_lowers_the_loss(data: RunData, tmp_path: Path) -> None:
    trainer = Trainer.start(data, SETTINGS, tmp_path)
    losses = [trainer.train_step() for _ in range(12)]
    assert losses[-1] < losses[0] - 0.2
    assert trainer.num_tokens == 12 * 128


def test_exported_model_gives_the_same_logits_in_transformers(trained: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours, tokenizer = load_exported(trained / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(trained / "model", dtype=torch.float32)
    token_ids = torch.tensor([tokenizer.encode("Once upon a time there was a dog.").ids])
    with torch.no_grad():
        torch.testing.assert_close(theirs(token_ids).logits, ours(token_ids), atol=1e-4, rtol=1e-4)
    assert theirs.generation_config.eos_token_id == [3, 0]
    assert (trained / "model" / "model.safetensors").stat().st_mode & 0o044


def test_resume_draws_the_same_next_batch_and_takes_the_same_step(data: RunData, tmp_path: Path) -> None:
    trainer = Trainer.start(data, SETTINGS, tmp_path)
    for _ in range(5):
        trainer.train_step()
    trainer.save()
    resumed = Trainer.resume(data, SETTINGS, tmp_path)
    state = trainer.stream.state()
    batches = [run.stream.next_batch(4, 32, 0.4) for run in (trainer, resumed)]
    assert (batches[0] == batches[1]).all()
    for run in (trainer, resumed):
        run.stream.restore(state)
    assert trainer.train_step() == pytest.approx(resumed.train_step(), abs=1e-6)
    assert trainer.train_step() == pytest.approx(resumed.train_step(), abs=1e-5)


def test_a_finished_model_is_trained_further_from_its_weights_and_tokenizer(
    data: RunData, trained: Path, tmp_path: Path
) -> None:
    settings = continued(SETTINGS)
    before, tokenizer = load_exported(trained / "model")
    trainer = Trainer.go_on_from(trained / "model", data, settings, tmp_path)
    for name, weight in before.state_dict().items():
        assert torch.equal(weight, trainer.model.state_dict()[name])
    assert trainer.tokenizer.to_str() == tokenizer.to_str()
    first_loss = trainer.train_step()
    assert first_loss < Trainer.start(data, settings, tmp_path).train_step() - 0.2
    trainer.run()
    assert load_exported(tmp_path / "model")[1].to_str() == tokenizer.to_str()


def test_a_resumed_run_keeps_the_schedule_it_was_begun_with(
    data: RunData, trained: Path, tmp_path: Path
) -> None:
    trainer = Trainer.go_on_from(trained / "model", data, continued(SETTINGS), tmp_path)
    trainer.train_step()
    trainer.clock.tick()
    trainer.save()
    resumed = Trainer.resume(data, SETTINGS, tmp_path)
    assert resumed.settings == trainer.settings != SETTINGS
    assert (resumed.clock.elapsed_s, resumed.clock.wall_s) == (trainer.clock.elapsed_s, trainer.clock.wall_s)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no folder", "has no config.json"),
        ("no weights", "has no model.safetensors"),
        ("cut weights", "does not read as a model"),
        ("not our config", "KeyError: 'num_hidden_layers'"),
        ("other shape", "another shape"),
        ("other tokenizer", "260 tokens but its model 400"),
    ],
)
def test_a_folder_that_does_not_fit_is_not_trained_further(
    fault: str, message: str, data: RunData, trained: Path, tmp_path: Path
) -> None:
    folder, settings = tmp_path / "model", SETTINGS
    if fault != "no folder":
        shutil.copytree(trained / "model", folder)
    if fault == "no weights":
        (folder / "model.safetensors").unlink()
    elif fault == "cut weights":
        (folder / "model.safetensors").write_bytes(b"\0" * 40)
    elif fault == "not our config":
        (folder / "config.json").write_text('{"hidden_size": 32}', encoding="utf-8")
    elif fault == "other shape":
        settings = replace(SETTINGS, shape=replace(SHAPE, num_layers=3))
    elif fault == "other tokenizer":
        train_tokenizer(["abc"], 256).save(str(folder / "tokenizer.json"))
    with pytest.raises(CallerError, match=message):
        Trainer.go_on_from(folder, data, settings, tmp_path)


def test_mixture_never_includes_the_held_out_text(data: RunData) -> None:
    stories = [text for source in data.sources for text in source.stories]
    assert not any("penguins" in text for text in stories)
    tokenizer = train_tokenizer(stories, SHAPE.vocab_size)
    stream = BatchStream(data.sources, tokenizer, seed=3)
    while min(stream.epochs().values()) < 2:
        rows = stream.next_batch(8, 64, 0.5).tolist()
        assert not any("penguins" in text for text in tokenizer.decode_batch(rows))


def test_held_out_file_inside_the_data_folder_is_not_a_source(data_folder: Path) -> None:
    sources = read_corpus(data_folder, data_folder / "pd_gutenberg.txt")
    assert [source.name for source in sources] == ["tinystories_v2gpt4"]


def test_every_packed_token_follows_the_one_before_it_across_rows(data: RunData) -> None:
    tokenizer = train_tokenizer(
        (text for source in data.sources for text in source.stories), SHAPE.vocab_size
    )
    rows = BatchStream(data.sources, tokenizer, seed=3).next_batch(64, 64, 0.5).tolist()
    joined = sum(before[-1] == after[0] for before, after in pairwise(rows))
    assert joined > len(rows) // 2
    assert any(tokenizer.token_to_id(END_OF_TEXT) in row for row in rows)


def test_tokenizer_is_lossless_on_any_text(trained: Path) -> None:
    _, tokenizer = load_exported(trained / "model")
    for text in (
        "Once upon a time.",
        "道可道,非常道。",
        "\u0000\t naïve 🙂\r\n",
        "".join(map(chr, range(256))),
    ):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_rate_rises_stays_and_falls_to_zero() -> None:
    settings = OptimSettings()
    rates = [rate_factor(step / 100, settings) for step in range(101)]
    assert rates[0] < 0.2
    assert rates[30] == 1.0
    assert rates[100] == 0.0
    assert rates[60:] == sorted(rates[60:], reverse=True)
    further = continued(SETTINGS)
    falling = [rate_factor(step / 100, further.optim) for step in range(2, 101)]
    assert falling == sorted(falling, reverse=True)
    assert (falling[0], falling[-1]) == (1.0, 0.0)
    assert [SETTINGS.mixture_at(part) for part in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]
    assert [further.mixture_at(part) for part in (0.0, 1.0)] == [0.7, 1.0]


def test_a_pause_counts_on_the_wall_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, cpu_s = [100.0], [7.0]
    monkeypatch.setattr("narrows.demo.train.trainer.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("narrows.demo.train.trainer.time.process_time", lambda: cpu_s[0])
    clock = BudgetClock(2)
    for gap_s, used_s in ((2.0, 4.0), (5000.0, 3.0), (3.0, 6.5)):
        now_s[0] += gap_s
        cpu_s[0] += used_s
        assert clock.tick() == pytest.approx(gap_s)
    assert clock.elapsed_s == pytest.approx(2.0 + 1.5 + 3.0)
    assert clock.wall_s == pytest.approx(5005.0)


def test_the_budget_that_runs_out_first_ends_the_run(data: RunData, tmp_path: Path) -> None:
    settings = replace(SETTINGS, max_steps=None, minutes=10.0, wall_minutes=20.0)
    trainer = Trainer.start(data, settings, tmp_path)
    trainer.clock.elapsed_s, trainer.clock.wall_s = 300.0, 360.0
    assert trainer.progress() == pytest.approx(0.5)
    trainer.clock.wall_s = 900.0
    assert trainer.progress() == pytest.approx(0.75)


@pytest.mark.parametrize(
    "fault", ["no folder", "no files", "empty file", "no held-out", "no checkpoint", "no model", "no time"]
)
def test_bad_input_is_refused_with_a_remedy(
    fault: str, data_folder: Path, held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target, extra = data_folder, held_out, []
    if fault == "no folder":
        folder = tmp_path / "absent"
    elif fault in ("no files", "empty file"):
        folder = tmp_path / "data"
        folder.mkdir()
        if fault == "empty file":
            (folder / "a.txt").write_text(" \n", encoding="utf-8")
    elif fault == "no held-out":
        target = tmp_path / "absent.txt"
    elif fault == "no checkpoint":
        extra = ["--resume"]
    elif fault == "no model":
        extra = ["--from", str(tmp_path / "absent")]
    else:
        extra = ["--wall-minutes", "0"]
    arguments = ["--data", str(folder), "--held-out", str(target), "--out", str(tmp_path / "out"), *extra]
    assert main([*arguments, "--no-compile"]) == 2
    assert "error: " in capsys.readouterr().err
