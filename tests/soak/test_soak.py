"""A handful of the soak's runs.

Faults whose property a quicker test holds are left to `make nightly`: a killed or hung rank (`distributed/test_tpp`,
`tasks/cluster/test_group`), a lost engine or head (`tasks/cluster/test_supervision`), a killed driver
(`flows/test_flows`), a full disk (here, when a snapshot finds no space).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.cluster import head
from tests.soak.commands import Commands
from tests.soak.soak import Soak


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
        pytest.param("snapshot", 1, 10, id="a single engine is killed and its newest snapshot damaged"),
        pytest.param("memory", 2, 9, id="a rank runs out of memory", marks=pytest.mark.nightly),
        pytest.param("disk", 2, 0, id="a snapshot finds no space"),
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
def commands(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Commands:
    return Commands(folder=tmp_path_factory.mktemp("commands"), model_dir=tiny_model)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("index", "fault", "moment"),
    [
        pytest.param(1, "twice", 0, id="the same render is asked for twice at once"),
        pytest.param(2, "twice killed", 5, id="and the one that renders is killed"),
        pytest.param(4, "server", 5, id="its Prefect server is killed"),
        pytest.param(5, "raylet", 5, id="its raylet is killed"),
        pytest.param(6, "encoder", 5, id="its encoder is killed"),
        pytest.param(7, "guardian", 5, id="its guardian is killed"),
        pytest.param(3, "parquet", 8, id="the tables of the film find no space", marks=NEEDS_ROOT),
    ],
)
def test_commands_make_the_film_of_an_undisturbed_one(commands: Commands, index: int, fault: str, moment: int) -> None:
    commands.run(index, fault, moment)
