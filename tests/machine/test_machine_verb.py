"""`narrows machine`: what is printed, what is refused, and once the whole of it in processes of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from narrows import cli
from narrows.machine import measure, run
from narrows.machine.profile import Disturbance, Link, MachineProfile
from narrows.machine.survey import SurveyInterrupted
from narrows.machine.table import lines
from tests.machine.fakes import profile


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachineProfile:
    """A machine that needs no measuring."""
    monkeypatch.setenv("NARROWS_CACHE_DIR", str(tmp_path))
    one = profile()
    monkeypatch.setattr(measure, "measure_machine", lambda options, *, progress: one)
    return one


def test_json_is_the_whole_profile(known: MachineProfile, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["machine", "--json"]) == 0
    assert MachineProfile.from_json(json.loads(capsys.readouterr().out)) == known


def test_the_table_says_what_each_figure_limits(
    known: MachineProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["machine"]) == 0
    text = capsys.readouterr().out
    for words in (
        "Imaginary 9000: 2 of 2 CPUs on 2 cores, a quota of 1.5 CPUs (cgroup v2), so 2 threads",
        "stored: --fresh measures anew",
        "1.98 x one  each has a core of its own",
        "30.0 GB/s  decode: 1B in 4 bits, 0.6 GB a token: at most 50 tokens/s",
        "200 GB/s  what prefill reads again and again, 6.7 x DRAM",
        "100 GB/s  decode of models below 8 MiB, 3.3 x DRAM",
        "300 GMAC/s  prefill: 1B in 8- and 4-bit weights: at most 300 tokens/s",
        "100 GMAC/s  prefill: 1B in float weights: at most 100 tokens/s",
        "50.0 / 25.0 GMAC/s  the same with NARROWS_ISA=generic",
        "1.00 GB/s  first start: 1B in 16 bits, 2 GB: at least 2.00 s",
        "4.00 GB/s  later starts: 1B in 4 bits, 0.6 GB: at least 0.15 s",
        "12 us + n / 5.00 GB/s  1B in two processes, 32 messages of 8 KB a token: 0.4 ms",
        "900 GB/s  decode: 1B in 16 bits, 2 GB a token: at most 450 tokens/s",
        "120 TFLOP/s  prefill: 1B: at most 60000 tokens/s",
        "2% of our CPUs used by others, 1% stolen, 0% throttled, DRAM median 5% below its best",
        "unknown: throttling: no cpu.stat",
    ):
        assert words in text
    assert "busy" not in text
    assert len(text.splitlines()) <= 24, "one screen"
    assert all(len(line) <= 120 for line in text.splitlines())


def test_half_the_bandwidth_is_half_the_tokens() -> None:
    halved = "\n".join(lines(profile(dram_gb_per_s=(10.0, 15.0))))
    assert "15.0 GB/s  decode: 1B in 4 bits, 0.6 GB a token: at most 25 tokens/s" in halved


@pytest.mark.parametrize(
    "changes",
    [{"others_share": 0.5}, {"steal_share": 0.2}, {"throttled_share": 0.1}, {"spread": 0.4}],
)
def test_a_busy_machine_is_said_to_be_busy(changes: dict[str, float]) -> None:
    quiet = Disturbance(0.0, 0.0, 0.0, 0.0)
    assert "busy" not in "\n".join(lines(profile(disturbance=quiet)))
    assert "The machine was busy" in "\n".join(lines(profile(disturbance=replace(quiet, **changes))))


def test_a_profile_with_nothing_in_it_is_still_shown() -> None:
    bare = profile(
        cores=replace(profile().cores, shared_cores=None, shared_cores_ratio=None, quota=None),
        caches=(),
        dram_gb_per_s=(),
        dram_threads=(),
        peaks=(),
        disk=None,
        links=(),
        gpus=(),
        disturbance=Disturbance(None, None, 0.0),
        unknown={"DRAM": "too little memory"},
    )
    text = "\n".join(lines(bare))
    assert "no quota" in text
    assert "unknown: DRAM: too little memory" in text


def test_many_counts_of_threads_are_three_rows() -> None:
    many = profile(dram_threads=(1, 2, 4, 8, 16), dram_gb_per_s=(9.0, 17.0, 30.0, 40.0, 38.0))
    rows = [line for line in lines(many) if "DRAM read, " in line]
    assert [row.split("GB/s")[0].split()[-1] for row in rows] == ["9.00", "40.0", "38.0"]


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "0"],
        ["--disk", "/no/such/folder"],
        ["--peer", "nonsense"],
        ["--peer", "127.0.0.1:1"],
        ["--listen", "nonsense"],
        ["--listen", "203.0.113.1:0"],
        ["--listen", "0", "--json"],
        ["--listen", "0", "--peer", "a:1"],
    ],
)
def test_impossible_options_are_refused_in_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NARROWS_CACHE_DIR", str(tmp_path))
    assert cli.main(["machine", *words]) == cli.EXIT_CALLER
    said = capsys.readouterr()
    assert said.err.startswith("narrows machine: ")
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_ctrl_c_shows_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_options: object, *, progress: object) -> MachineProfile:
        raise SurveyInterrupted(profile(unknown={"disk": "interrupted"}))

    monkeypatch.setattr(measure, "measure_machine", interrupted)
    assert cli.main(["machine"]) == cli.EXIT_INTERRUPTED
    text = capsys.readouterr().out
    assert "DRAM read" in text
    assert "unknown: disk: interrupted" in text


@pytest.mark.parametrize("somebody_looks", [True, False])
def test_progress_is_shown_where_somebody_looks(
    somebody_looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return somebody_looks

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    with run._progress_bar() as progress:
        for done, part in enumerate(("DRAM", "peaks")):
            progress(part, done, 2)
    assert ("measuring: peaks" in shown.getvalue()) == somebody_looks
    assert bool(shown.getvalue()) == somebody_looks


@contextmanager
def listening(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "narrows.cli", "machine", "--listen", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert "only this machine reaches" in process.stdout.readline()
            yield process, first.removeprefix("listening on ").partition(";")[0]
        finally:
            process.kill()


def test_a_listener_is_measured_from_another_process_and_ends_with_ctrl_c() -> None:
    from narrows.machine.links import measure_link, parse_address

    with listening("0") as (process, address):
        assert address.startswith("127.0.0.1:")
        link = measure_link(parse_address(address, option="--peer"))
        assert isinstance(link, Link)
        assert link.gb_per_s > 0
        assert process.stderr is not None
        assert "127.0.0.1 measured its link" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0
    assert "Traceback" not in err


def test_a_port_that_is_taken_is_refused() -> None:
    with listening("0") as (_process, address):
        done = subprocess.run(
            [sys.executable, "-m", "narrows.cli", "machine", "--listen", address],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == cli.EXIT_CALLER
    assert "Address already in use" in done.stderr


def test_the_whole_command_measures_this_machine_and_then_remembers_it(tmp_path: Path) -> None:
    def narrows(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "narrows.cli", "machine", *words],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            env={**os.environ, "NARROWS_CACHE_DIR": str(tmp_path)},
        )

    first = narrows("--json")
    assert first.returncode == 0, first.stderr
    one = MachineProfile.from_json(json.loads(first.stdout))
    assert one.cores.threads == len(one.dram_gb_per_s) or one.dram_threads[-1] == one.cores.threads
    assert one.cores.isas == tuple(peak.isa for peak in one.peaks)
    assert {link.peer for link in one.links} == {"loopback"}
    second = narrows("--json")
    assert json.loads(second.stdout) == json.loads(first.stdout), "measured again"
    table = narrows()
    assert "stored" in table.stdout
    assert first.stderr == second.stderr == table.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == [f"machine-{one.fingerprint}.json"]


def test_help_and_listening_need_no_core() -> None:
    code = (
        "import sys, argparse; from narrows.machine import run\n"
        "run.configure(argparse.ArgumentParser())\n"
        "heavy = {'torch', 'numpy', 'tqdm', 'narrows._core'}\n"
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
