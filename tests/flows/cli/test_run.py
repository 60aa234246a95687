"""Subcommands that run flows: what they print and return, the note of a running command, and its end."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from scipy.io import wavfile

from flows.cli import run as cli_run
from flows.cli.run import at_work, conclude, parse_list, ray_session
from flows.serving.prefect_server import run_dir
from liveavatar.errors import CapacityError, InputError
from liveavatar.hardware import free_port
from liveavatar.paths import SAMPLES
from tests.flows.cli.commands import RATE, run
from tests.flows.shop import Shop


def outcome(*grades: str, status: str = "passed") -> dict[str, Any]:
    checks = [{"status": grade, "name": f"check{n}", "reason": "why"} for n, grade in enumerate(grades)]
    timing = {"fps": 12.34, "cached_tasks": 3, "total_s": 4.56}
    return {"out": "out/x", "status": status, "report": {"timing": timing, "checks": checks}}


def test_a_render_ends_with_one_line_of_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert conclude(outcome("passed")) == 0
    assert capsys.readouterr().out == (
        "out/x/video.mp4: passed; 12.3 frames/s, 3 of 8 stages cached, 4.6 s; see out/x/report.html\n"
    )


def test_what_failed_is_named_before_what_warned_and_not_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert conclude(outcome("warned", "passed", "failed", *["warned"] * 6, status="failed")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "failed: check2: why"
    assert lines[1] == "warned: check0: why"
    assert lines[6] == "and 2 more, see the report"
    assert len(lines) == 8
    assert conclude(outcome("warned", status="warned")) == 0, "a warning is no failure"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("3,4", ["3", "4"], id="two"),
        pytest.param(" 4 , 3,4,", ["4", "3"], id="repeats and gaps"),
        pytest.param("", None, id="nothing"),
        pytest.param("3,9", None, id="out of range"),
        pytest.param("34", None, id="two digits"),
    ],
)
def test_a_list_is_split_and_its_form_is_checked(text: str, parts: list[str] | None) -> None:
    if parts is not None:
        assert parse_list(text, "--steps", "[1-8]", "numbers") == parts
        return
    with pytest.raises(InputError, match="is wrong; give numbers"):
        parse_list(text, "--steps", "[1-8]", "numbers")


def test_a_command_is_noted_while_it_runs(home: Path) -> None:
    def work() -> None:
        with at_work("render", url="here"):
            (record,) = run_dir().glob("*.json")
            assert record.name == f"render-{os.getpid()}.json"
            facts = json.loads(record.read_text())
            assert (facts["pid"], facts["url"]) == (os.getpid(), "here")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not list(run_dir().glob("*.json"))


def test_a_home_that_cannot_be_written_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "home").write_text("a file")
    with pytest.raises(CapacityError, match="set LIVEAVATAR_HOME to another folder"), at_work("render"):
        pytest.fail("it ran")


def test_a_session_without_ray_ends_without_it() -> None:
    with pytest.raises(ValueError, match="x"), ray_session():
        raise ValueError("x")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def note(process: subprocess.Popen[bytes], created: float = 0.0) -> Path:
    run_dir().mkdir(parents=True, exist_ok=True)
    record = run_dir() / f"serve-start-{process.pid}.json"
    began = psutil.Process(process.pid).create_time()
    record.write_text(json.dumps({"pid": process.pid, "created": began + created}))
    return record


def test_stop_ends_what_runs(home: Path, sleeper: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    record = note(sleeper)
    code, out, _ = run(["stop"], capsys)
    assert code == 0
    assert out == f"ended serve-start (process {sleeper.pid})\n"
    assert sleeper.wait(10) == -15, "asked to end, not killed"
    assert not record.exists()


def test_stop_spares_another_process_of_the_same_number(
    home: Path, sleeper: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    record = note(sleeper, created=-100.0)
    assert run(["stop"], capsys)[:2] == (0, "nothing runs\n")
    assert sleeper.poll() is None
    assert not record.exists()


@pytest.mark.parametrize(
    ("asked", "replicas"),
    [
        pytest.param([], 1, id="one engine"),
        pytest.param(["--placement", "replicas"], 2, id="one a GPU"),
        pytest.param(["--placement", "replicas", "--num_gpus", "3"], 3, id="a number"),
        pytest.param(["--placement", "replicas", "--num_gpus", "9"], 4, id="no more than jobs"),
    ],
)
def test_a_batch_has_engines_for_its_jobs(
    asked: list[str],
    replicas: int,
    home: Path,
    files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import contextlib

    from flows import batch as flow
    from flows.cli import run as commands
    from flows.run_record import State, state_of

    given: list[int] = []
    monkeypatch.setattr("tasks.store.machine.accelerators", lambda: ("H200", "H200"))
    monkeypatch.setattr(
        commands,
        "PrefectServer",
        lambda: contextlib.nullcontext(type("S", (), {"wait": print, "wait_for_joined": print})),
    )

    def batch(jobs: object, out: object, count: int, *, return_state: bool) -> State[list[object]]:
        assert return_state
        given.append(count)
        return state_of("passed", [], [], "")

    monkeypatch.setattr(flow, "batch", batch)
    monkeypatch.setattr(flow, "print_outcomes", lambda outcomes, as_json: 0)
    rows = [",".join(("audio", "image", "prompt"))] + [f"voice.wav,face.png,A woman talks {n}." for n in range(4)]
    Path("jobs.csv").write_text("\n".join(rows))
    assert run(["batch", "jobs.csv", "--model", files["model"], *asked], capsys)[0] == 0
    assert given == [replicas]


def test_a_command_outlives_the_head_of_its_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_gcs_rpc_server_reconnect_timeout_s"
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    with ray_session():
        assert int(os.environ[name]) > 365 * 86_400


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["/raylet/raylet", "/gcs/gcs_server"])
def test_serve_replaces_a_ray_that_was_killed_and_the_job_goes_on(victim: str, shop: Shop) -> None:
    sound = wavfile.read(shop.folder / "voice.wav")[1]
    wavfile.write(shop.folder / "long.wav", RATE, np.tile(sound, 8))
    job = shop.job(audio="long.wav", seed=str(len(victim)))
    places = shop.folder / "home"
    ports = ["--port", str(free_port()), "--live_port", str(free_port())]
    with subprocess.Popen(
        shop.command("serve", *ports), cwd=shop.folder, env=shop.environment(), stdout=subprocess.DEVNULL
    ) as serving:
        try:
            wait_for((places / f"run/serve-{serving.pid}.json").exists)
            with subprocess.Popen(
                shop.command("render", *job, "--out", "out/beside", "--enable-online-decode"),
                cwd=shop.folder, env=shop.environment(), stderr=subprocess.PIPE, text=True,
            ) as beside:  # fmt: skip
                wait_for(lambda: list(places.glob("work/*/snapshots/*.safetensors")))
                (process,) = (p for p in psutil.Process(serving.pid).children() if victim in " ".join(p.cmdline()))
                process.kill()
                said = beside.communicate(timeout=300)[1]
            assert beside.returncode in (0, 1), said
            assert "resumed at block" in said
            assert serving.poll() is None
            record = json.loads((places / f"run/serve-{serving.pid}.json").read_text())
            assert record["ray"] == record["rays"][1]
        finally:
            serving.terminate()
    assert serving.returncode == 0, "SIGTERM ends it as before"
    alone = shop.run("render", *job, "--out", "out/alone", "--enable-online-decode", "--force")
    assert alone.returncode in (0, 1), alone.stderr
    assert shop.manifest("out/beside")["latents_sha256"] == shop.manifest("out/alone")["latents_sha256"]


def test_the_demo_takes_what_is_given_and_the_rest_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def read(options: dict[str, object]) -> None:
        asked.append(options)
        raise InputError("that is all")

    monkeypatch.setattr(cli_run, "read_parameters", read)
    with pytest.raises(InputError, match="that is all"):
        cli_run.render({"demo": True, "seed": "7", "out": "out/mine"})
    sample = cli_run.demo()
    assert asked == [{**sample, "seed": "7", "out": "out/mine"}]
    assert all(Path(str(sample[name])).is_file() for name in ("audio", "image"))
    assert (sample["prompt"], sample["out"]) == ((SAMPLES / "prompt.txt").read_text().strip(), "out/demo")
