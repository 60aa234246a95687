"""The driver keeps what is done, goes on after late failures, and brings everything home in bounded files."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.checkpoints.load import load_model
from liveavatar.config import TINY
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.training import card, pack, partial_export, run, runtime
from liveavatar.training.flow import AvatarNet
from tests.training.conftest import ToyRun


def drive(folder: Path, failing: set[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Run the driver with stages that only note their names."""
    seen: list[str] = []

    def note(name: str):
        def stage(_: run.Driver) -> bool:
            seen.append(name)
            return name not in failing

        return stage

    for name in run.STAGES:
        monkeypatch.setattr(run.Driver, f"_{name}", note(name))
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


def test_packed_folder_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PART_BYTES", 7000)
    source = tmp_path / "model"
    source.mkdir()
    (source / "weights").write_bytes(np.random.default_rng(0).bytes(20_000))
    parts = pack.pack_folder(source, tmp_path, "model")
    assert len(parts) > 2
    assert all(p.stat().st_size <= 7000 for p in parts)
    with tarfile.open(fileobj=io.BytesIO(b"".join(p.read_bytes() for p in parts))) as tar:
        member = tar.extractfile("model/weights")
        assert member is not None
        assert member.read() == (source / "weights").read_bytes()


def unpacked(parts: list[Path], folder: Path, stem: str = partial_export.STEM) -> Path:
    with tarfile.open(fileobj=io.BytesIO(b"".join(p.read_bytes() for p in parts))) as tar:
        tar.extractall(folder, filter="data")
    return folder / stem


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run of the tiny preset, just begun."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"average": dict(CompactVAE(TINY.vae).named_parameters())}, folder / "autoencoder.pt")
    return folder


def add_teacher(folder: Path) -> torch.Tensor:
    """Give a run a teacher; returns one of its weights."""
    weights = {n: p.detach() for n, p in AvatarNet(TINY).named_parameters()}
    torch.save({"average": weights}, folder / "teacher.pt")
    (folder / "config.json").write_text(TINY.to_json())
    return weights["dit.patch_embedding.weight"]


def test_what_there_is_can_be_brought_home(begun: Path, tmp_path: Path) -> None:
    assert partial_export.newest(tmp_path) == 0
    assert partial_export.bring(tmp_path, tmp_path / "out") == []
    before = partial_export.newest(begun)
    model = unpacked(partial_export.bring(begun, tmp_path / "out", "tiny"), tmp_path / "1")
    assert load_model(model, "cpu", torch.float32, parts=("vae",)).vae is not None
    weight = add_teacher(begun)
    assert partial_export.newest(begun) >= before > 0
    model = unpacked(partial_export.bring(begun, tmp_path / "out", "tiny"), tmp_path / "2")
    loaded = load_model(model, "cpu", torch.float32).dit
    torch.testing.assert_close(loaded.patch_embedding.weight.detach(), weight.half().float())


def test_new_weights_are_brought_while_a_stage_runs(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    wait = "import pathlib, sys, time\nwhile not (pathlib.Path(sys.argv[1]) / 'so_far.tar.00').exists(): time.sleep(.1)"

    def slow(driver: run.Driver) -> bool:
        return driver._wait([driver._launch("slow", ["-c", wait, str(out)])], 60)

    monkeypatch.setattr(run.Driver, "_slow", slow, raising=False)
    options = ["--assets", "a", "--speech", "s", "--work", str(begun), "--out", str(out), "--preset", "tiny"]
    assert run.main([*options, "--stages", "slow"]) == 0
    assert (begun / "slow.done").exists(), (begun / "logs" / "bring.log").read_text()


def test_decoder_is_refined_beside_the_teacher(corpus: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "run"
    work.mkdir()
    (work / "clips").symlink_to(corpus.clips)
    first = dict(CompactVAE(TINY.vae).named_parameters())
    torch.save({"average": first}, work / "autoencoder.pt")
    monkeypatch.setattr(run.Driver, "_train", lambda *_: True)
    options = ["--assets", "a", "--speech", "s", "--work", str(work), "--out", str(tmp_path / "out"), "--gpus", "0"]
    options += ["--preset", "tiny", "--refine_gpu", "0", "--budget", "refine=2", "--stages", "teacher,evaluate"]
    assert run.main([*options, "--extra", "refine=--batch 1 --frames 4 --adversary 0"]) == 0
    refined = torch.load(work / runtime.REFINED / "autoencoder.pt", weights_only=True)["average"]
    assert torch.equal(refined["encoder.conv_in.weight"], first["encoder.conv_in.weight"])
    assert not torch.equal(refined["decoder.conv_in.weight"], first["decoder.conv_in.weight"])


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


def test_held_out_clips_are_whole_and_bounded(corpus: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pack.pack_held_out(corpus.clips, tmp_path / "all.zip") == 2
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        frames = [n for n in archive.namelist() if n.startswith("eval_landscape_0/0/") and n.endswith(".webp")]
        assert len(frames) == 49
        assert Image.open(io.BytesIO(archive.read(frames[0]))).size == (256, 128)
        labels = np.load(io.BytesIO(archive.read("eval_landscape_0/0/labels.npz")))
        assert labels["landmarks"].shape == (49, 68, 2)
    size = (tmp_path / "all.zip").stat().st_size
    monkeypatch.setattr(pack, "HELD_OUT_BYTES", size * 2 // 3)
    assert pack.pack_held_out(corpus.clips, tmp_path / "one.zip") == 1


def test_card_tables_come_from_records() -> None:
    checks = [
        {"name": "edge_jump", "what": "step", "value": 2.03, "limit": 1.25, "goal": 1.1, "sense": "most", "ok": False},
        {"name": "r", "what": "ratio", "value": 1.0, "limit": 0.15, "goal": 0.07, "sense": "near", "ok": True},
    ]
    quality = {"clips": 8, "steps": 4, "dtype": "bfloat16", "device": "cpu", "checks": checks}
    goals = card.goals_table(quality | {"truth": {"edge_jump": 1.015}})
    assert "| step (`edge_jump`) | 2.030 | 1.015 | ≤ 1.25 | ≤ 1.1 | no |" in goals
    assert "| ratio (`r`) | 1 |  | 1 ± 0.15 | 1 ± 0.07 | yes |" in goals
    table = card.measures_table({"truth": {"openness_corr": 0.976}, "dmd@4": {"openness_corr": 0.5, "lag_frames": 0.0}})
    assert "| truth | 0.976 |" in table
    assert "| dmd@4 | 0.500 |" in table
    records = [{"seconds": float(i), "loss": 1.0 / (i + 1)} for i in range(50)] + [{"seconds": 99.0}]
    rows = card.curve_table(records, ("seconds", "loss")).splitlines()
    assert len(rows) == 2 + card.CURVE_ROWS
    assert rows[2].startswith("| 0 |")
    assert rows[-1].startswith("| 49 |")
