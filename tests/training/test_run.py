"""A training run resumes, exports after late failures, and packs the results into files of bounded size."""

import json
from pathlib import Path

import pytest
import torch

from liveavatar.checkpoints.load import load_model
from liveavatar.config import TINY
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.training import run, runtime
from tests.training.conftest import ToyRun, add_teacher, unpacked


def drive(folder: Path, failing: set[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Run stages that only note their names."""
    seen: list[str] = []

    def note(name: str):
        def stage(_: run.TrainingRun) -> bool:
            seen.append(name)
            return name not in failing

        return stage

    for name in run.STAGES:
        monkeypatch.setattr(run.TrainingRun, name, note(name))
    options = ["--assets", "a", "--speech", "s", "--work", str(folder), "--out", str(folder / "out"), "--gpus", "0"]
    return run.main(options), seen


def test_finished_stages_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drive(tmp_path, set(), monkeypatch) == (0, list(run.STAGES))
    (tmp_path / "teacher.done").unlink()
    assert drive(tmp_path, set(), monkeypatch) == (0, ["teacher"])


@pytest.mark.parametrize(
    ("failing", "code", "last"),
    [
        pytest.param("distill", 0, ["evaluate", "export", "pack"], id="without a student the teacher is exported"),
        pytest.param("teacher", 1, ["pack"], id="without a teacher there is only a report"),
    ],
)
def test_failures(failing: str, code: int, last: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, seen = drive(tmp_path, {failing}, monkeypatch)
    assert status == code
    assert seen[seen.index(failing) + 1 :] == last


def test_budget_option() -> None:
    assert run.parse_budget("render=280,teacher=460.5") == {"render": 280.0, "teacher": 460.5}


def test_new_weights_are_brought_while_a_stage_runs(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    wait = "import pathlib, sys, time\nwhile not (pathlib.Path(sys.argv[1]) / 'so_far.tar.00').exists(): time.sleep(.1)"

    def slow(training: run.TrainingRun) -> bool:
        return training.wait([training.launch("slow", ["-c", wait, str(out)])], 60)

    monkeypatch.setattr(run.TrainingRun, "slow", slow, raising=False)
    options = ["--assets", "a", "--speech", "s", "--work", str(begun), "--out", str(out), "--preset", "tiny"]
    assert run.main([*options, "--stages", "slow"]) == 0
    assert (begun / "slow.done").exists(), (begun / "logs" / "partial_export.log").read_text()


@pytest.mark.nightly
def test_decoder_is_refined_beside_the_teacher(corpus: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "run"
    work.mkdir()
    (work / "clips").symlink_to(corpus.clips)
    first = dict(CompactVAE(TINY.vae).named_parameters())
    torch.save({"average": first}, work / "autoencoder.pt")
    monkeypatch.setattr(run.TrainingRun, "train", lambda *_: True)
    options = ["--assets", "a", "--speech", "s", "--work", str(work), "--out", str(tmp_path / "out"), "--gpus", "0"]
    options += ["--preset", "tiny", "--refine_gpu", "0", "--budget", "refine=2", "--stages", "teacher,evaluate"]
    assert run.main([*options, "--extra", "refine=--batch 1 --frames 4 --adversary 0"]) == 0
    refined = torch.load(work / runtime.REFINED / "autoencoder.pt", weights_only=True)["average"]
    assert torch.equal(refined["encoder.conv_in.weight"], first["encoder.conv_in.weight"])
    assert not torch.equal(refined["decoder.conv_in.weight"], first["decoder.conv_in.weight"])


@pytest.mark.nightly
def test_other_weights_come_home_beside_the_model(begun: Path, tmp_path: Path) -> None:
    add_teacher(begun)
    average = torch.load(begun / "teacher.pt", weights_only=True)["average"]
    torch.save({"regression": average, "dmd": {n: 2 * w for n, w in average.items()}}, begun / "student.pt")
    judged = {"chosen": "regression", "rows": {name: {} for name in ("regression@4", "dmd@4")}}
    (begun / "evaluation.json").write_text(json.dumps(judged))
    options = ["--assets", "a", "--speech", "s", "--work", str(begun), "--out", str(tmp_path), "--gpus", "0"]
    assert run.main([*options, "--preset", "tiny", "--stages", "export,pack"]) == 0
    stems = ("model", *run.BESIDE.values())
    home = {stem: unpacked(sorted(tmp_path.glob(f"{stem}.tar.*")), tmp_path, stem) for stem in stems}
    for name in run.BESIDE.values():
        assert sorted(p.name for p in home[name].glob("*.safetensors")) == ["dit.safetensors", "text.safetensors"]
    once, twice = (
        load_model(home[name], "cpu", torch.float32, parts=("text",)).text for name in ("teacher_model", "dmd_model")
    )
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(2 * a, b, rtol=2e-3, atol=1e-6)
    assert load_model(home["model"], "cpu", torch.float32).vae is not None
