"""A handful of the soak's runs.

Faults whose property a quicker test holds are left to `make nightly`: a killed or hung rank (`distributed/test_tpp`),
a lost engine or head (`tasks/cluster/test_supervision`), a damaged snapshot
and an interrupted render, a snapshot that finds no space (`render/test_job`).
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tasks.cluster import head
from tests.soak.case import DAMAGE, STAGES, Case, draw, table
from tests.soak.commands import Command, Job, Wrong
from tests.soak.damage import damage, files_of
from tests.soak.engine import Soak, run_case
from tests.soak.report import GOOD, write_report
from tests.soak.runs import Runner
from tests.soak.soak import EngineLane, shares


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Soak]:
    folder = tmp_path_factory.mktemp("soak")
    before = os.environ.get("LIVEAVATAR_HOME")
    os.environ["LIVEAVATAR_HOME"] = str(folder / "home")
    head.connect()
    yield Soak(folder=folder, model_dir=tiny_model)
    head.disconnect()
    if before is None:
        del os.environ["LIVEAVATAR_HOME"]
    else:
        os.environ["LIVEAVATAR_HOME"] = before


NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "ranks", "moment"),
    [
        pytest.param("kill last", 2, 6, id="the job's own process is killed", marks=pytest.mark.nightly),
        pytest.param(
            "snapshot", 1, 10, id="a single engine is killed and its newest snapshot damaged", marks=pytest.mark.nightly
        ),
        pytest.param("memory", 2, 9, id="a rank runs out of memory", marks=pytest.mark.nightly),
        pytest.param("disk", 2, 0, id="a snapshot finds no space", marks=pytest.mark.nightly),
        pytest.param("full", 1, 5, id="the disk is full", marks=[NEEDS_ROOT, pytest.mark.nightly]),
        pytest.param("hang", 2, 9, id="a rank is stopped for good", marks=pytest.mark.nightly),
        pytest.param("hang", 1, 9, id="the only process is stopped for good", marks=pytest.mark.nightly),
        pytest.param("driver", 2, 5, id="the driver is killed", marks=pytest.mark.nightly),
        pytest.param("head", 1, 5, id="the head of Ray is killed", marks=pytest.mark.nightly),
    ],
)
def test_nothing_is_lost(soak: Soak, fault: str, ranks: int, moment: int, request: pytest.FixtureRequest) -> None:
    facts = soak.run(hash(request.node.name) % 10**6, fault, ranks, moment, rank=0)
    assert facts["resumed_at"] > 0


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Job:
    return Job(folder=tmp_path_factory.mktemp("film"), model_dir=tiny_model)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"fault": "2 at once", "target": "none", "commands": 2, "fresh": True}, id="asked for twice"),
        pytest.param(
            {"fault": "2 at once", "target": "kill -9", "commands": 2}, id="and the one that renders is killed"
        ),
        pytest.param({"fault": "kill -9", "target": "server"}, id="its Prefect server is killed"),
        pytest.param({"fault": "kill -9", "target": "raylet"}, id="its raylet is killed"),
        pytest.param({"fault": "kill -9", "target": "encoder", "moment": 0.1}, id="its encoder is killed"),
        pytest.param({"fault": "kill -9", "target": "guardian"}, id="its guardian is killed"),
        pytest.param({"fault": "Ctrl-C", "target": "driver", "stage": "features"}, id="Ctrl-C before it renders"),
        pytest.param({"fault": "bit flipped", "target": "latents"}, id="a bit of its latents is flipped"),
        pytest.param(
            {"fault": "no space for a table", "target": "home"}, id="its tables find no space", marks=NEEDS_ROOT
        ),
    ],
)
def test_a_command_makes_the_film_of_an_undisturbed_one(job: Job, row: dict[str, Any]) -> None:
    facts = Runner(job=job).run(Case(run=hash(str(row)) % 10**6, **row))
    assert facts["outcome"] in GOOD, facts


def test_every_run_is_the_same_wherever_it_is_made_and_every_fault_has_its_turn() -> None:
    length = len(table())
    drawn = [draw(7, index) for index in range(length)]
    assert drawn == [draw(7, index) for index in range(length)] != [draw(8, index) for index in range(length)]
    places = {(case.fault, case.target, case.stage, case.piped, case.commands) for case in drawn}
    assert places == {
        (case.fault, case.target, case.stage, case.piped, case.commands) for case in (draw(9, i) for i in range(length))
    }
    assert {"driver", "actor", "rank", "raylet", "gcs", "server", "encoder", "guardian", "isolation"} <= {
        case.target for case in drawn
    }
    assert {case.stage for case in drawn if case.target == "driver"} >= set(STAGES)


def test_runs_are_chosen_by_fault_or_target() -> None:
    assert {draw(0, index, ("raylet",)).target for index in range(40)} == {"raylet"}
    assert {draw(0, index, ("disk full",)).target for index in range(40)} == {"home", "out", "tmp"}


def test_lanes_have_as_many_processors_each() -> None:
    assert {len(part) for part in shares(3, 1)} == {1}
    assert shares(1) == [os.sched_getaffinity(0)]


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_changes_the_file_it_is_meant_for(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "work/key/snapshots"
    folder.mkdir(parents=True)
    for number in (4, 8):
        (folder / f"block-{number}.safetensors").write_bytes(bytes(100))
    (newest,) = files_of("newest snapshot", tmp_path, tmp_path / "out", 0.2)
    damage(newest, how, 0.5)
    assert newest.name == "block-8.safetensors"
    assert len(newest.read_bytes()) == (100 if how == "bit flipped" else 50)
    assert sum(byte.bit_count() for byte in newest.read_bytes()) == (1 if how == "bit flipped" else 0)
    assert files_of("all snapshots", tmp_path, tmp_path / "out", 0.2) == sorted(folder.iterdir())


def raises(*_: object, **__: object) -> None:
    raise FileNotFoundError("video.mp4")


def test_an_error_of_a_run_is_one_failed_row_with_what_the_commands_wrote(tmp_path: Path) -> None:
    case = Case(run=3, fault="kill -9", target="driver")
    (tmp_path / "story-3-0").write_text("liveavatar: it is lost")
    row = Runner(job=cast(Job, SimpleNamespace(folder=tmp_path, home=raises))).run(case)
    assert (row["run"], row["outcome"], row["stories"]) == (3, "failed", ["story-3-0: liveavatar: it is lost"])
    assert "FileNotFoundError: video.mp4" in row["problem"]
    row = run_case(cast(Soak, SimpleNamespace(run=raises)), case)
    assert (row["run"], row["outcome"]) == (3, "failed")
    assert "FileNotFoundError: video.mp4" in row["problem"]


def test_a_driver_that_dies_is_one_failed_row_with_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "driver"
    driver.write_text("#!/bin/sh\necho it is lost >&2\nread case\nexit 3\n")
    driver.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(driver))
    lane = EngineLane(folder=tmp_path, model_dir=tmp_path)
    for run in range(2):  # another driver makes the next run
        row = lane.run(Case(run=run, fault="head", target="engine"))
        assert (row["run"], row["outcome"]) == (run, "failed")
        assert row["problem"] == "the engine's driver ended (3): it is lost\n"
    lane.end()


def test_an_output_folder_without_its_film_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "latents.bin").touch()
    with pytest.raises(Wrong, match=r"no \['video.mp4', 'frames.parquet', 'manifest.json'\], only \['latents.bin'\]"):
        Job.check(cast(Job, SimpleNamespace()), cast(Command, SimpleNamespace(out=tmp_path)))


def test_the_report_counts_what_struck_and_names_what_failed(tmp_path: Path) -> None:
    rows = [draw(0, index).facts() | {"seed": 0, "seconds": 20.0, "resumed_at": 4} for index in range(4)]
    for row, outcome in zip(rows, ("survived", "again", "missed", "failed"), strict=True):
        row |= {"outcome": outcome, "problem": "it is lost"}
    source = tmp_path / "runs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_report(source, "here", tmp_path).read_text()
    assert "**2 of 3 runs" in text
    assert "- run 3: " in text
    assert json.loads(next(tmp_path.glob("soak_here_*.json")).read_text())["runs"] == 3
