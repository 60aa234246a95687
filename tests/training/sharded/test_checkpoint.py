"""A run that stops and continues has the bits of one that did not, on one rank and on two."""

import json
import logging
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from liveavatar.errors import InputError
from liveavatar.training import runtime
from liveavatar.training.optim import local
from liveavatar.training.sharded import checkpoint, command
from tests.training.sharded.conftest import Build, disturb, tiny_args


def digest(out: Path) -> str:
    return str(json.loads((out / "distill_sharded.json").read_text())["weights_sha256"])


def _three_runs(rank: int, folder: Path) -> None:
    """A run of four updates; another of two; and that one again, up to four."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    own = runtime.TrainRank(rank, 2, torch.device("cpu"))
    for name, more in (("straight", ()), ("broken", ("--until", "2")), ("broken", ("--resume",))):
        command.train(tiny_args(folder / name, *more), own)
        if more == ("--until", "2") and rank == 0:
            shutil.copytree(folder / "broken", folder / "half")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the three runs on two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["liveavatar.training.sharded.command"])
    ranks = [context.Process(target=_three_runs, args=(rank, folder), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(200)
    assert [process.exitcode for process in ranks] == [0, 0]
    return folder


@pytest.mark.nightly
def test_two_updates_and_two_are_four_to_the_bit_on_two_ranks(runs: Path) -> None:
    assert digest(runs / "broken") == digest(runs / "straight") != digest(runs / "half")
    straight, broken = ([json.loads(line) for line in (runs / name / "distill.jsonl").read_text().splitlines()]
                        for name in ("straight", "broken"))  # fmt: skip
    assert [row["update"] for row in straight] == [4]
    assert [row["update"] for row in broken] == [2, 4]
    without_time = [{k: v for k, v in row.items() if k != "seconds"} for row in (straight[-1], broken[-1])]
    assert without_time[0] == without_time[1]
    report = json.loads((runs / "broken" / "distill_sharded.json").read_text())
    assert (report["world"], report["updates"], len(report["ranks"])) == (2, 2, 2)
    assert [path.name for path in checkpoint.saved(runs / "broken" / "checkpoints")] == ["00000002", "00000004"]


@pytest.mark.nightly
def test_one_rank_continues_what_two_ranks_saved(
    runs: Path, lone_rank: runtime.TrainRank, caplog: pytest.LogCaptureFixture
) -> None:
    before = (runs / "half" / "adapter" / "liveavatar.safetensors").read_bytes()
    command.train(tiny_args(runs / "half", "--resume", "--until", "2"), lone_rank)
    assert "was made by 2 ranks" in caplog.text
    assert (runs / "half" / "adapter" / "liveavatar.safetensors").read_bytes() == before
    command.train(tiny_args(runs / "half", "--resume"), lone_rank)
    assert digest(runs / "half") != digest(runs / "broken")


def test_everything_comes_back(build: Build, lone_rank: runtime.TrainRank, tmp_path: Path) -> None:
    made, again = build(), build()
    disturb(made)
    for _ in range(3):
        made.trainer.dmd_step(0.5)
    made.seconds = 7.0
    path = checkpoint.save(tmp_path, made, lone_rank)
    checkpoint.load(path, again, lone_rank)
    expected, got = made.tensors(), again.tensors()
    assert expected.keys() == got.keys()
    assert {name.split(".")[1] for name in got} == {"weights", "exp_avg", "exp_avg_sq", "average"}
    assert all(torch.equal(local(got[name]), local(value)) for name, value in expected.items())
    assert (again.trainer.calls, again.trainer.step, again.seconds) == (3, 1, 7.0)
    assert (again.student.updates, again.fake.updates) == (1, 3)
    for name, generator in made.generators.items():
        assert torch.equal(again.generators[name].get_state(), generator.get_state()), name
    rows = [state.trainer.dmd_step(0.5) for state in (made, again)]
    assert rows[0] == rows[1]


def test_only_the_newest_are_kept_and_unfinished_ones_do_not_count(
    build: Build, lone_rank: runtime.TrainRank, tmp_path: Path
) -> None:
    made = build()
    (tmp_path / "00000009.part").mkdir()
    for calls in (1, 2, 3):
        made.trainer.calls = calls
        checkpoint.save(tmp_path, made, lone_rank)
    assert [path.name for path in checkpoint.saved(tmp_path)] == ["00000002", "00000003"]


def test_other_options_are_refused(build: Build, lone_rank: runtime.TrainRank, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, build(), lone_rank)
    with pytest.raises(InputError, match=r"adamw 0\.01 \(now 0\.5\); continue with the same options"):
        checkpoint.load(path, build("--adamw", "0.5"), lone_rank)


def test_a_folder_with_a_run_is_not_overwritten(
    lone_rank: runtime.TrainRank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    command.train(tiny_args(tmp_path, "--until", "1"), lone_rank)
    with pytest.raises(InputError, match="holds a run of 1 updates; add --resume"):
        command.train(tiny_args(tmp_path), lone_rank)
