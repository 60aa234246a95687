"""Weights of an unfinished run are exported and packed."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model
from liveavatar.training import partial_export
from tests.training.conftest import add_teacher, unpacked


def test_what_there_is_can_be_brought_home(begun: Path, tmp_path: Path) -> None:
    assert partial_export.newest(tmp_path) == 0
    assert partial_export.export_newest(tmp_path, tmp_path / "out") == []
    before = partial_export.newest(begun)
    model = unpacked(partial_export.export_newest(begun, tmp_path / "out", "tiny"), tmp_path / "1")
    assert load_model(model, "cpu", torch.float32, parts=("vae",)).vae is not None
    weight = add_teacher(begun)
    assert partial_export.newest(begun) >= before > 0
    model = unpacked(partial_export.export_newest(begun, tmp_path / "out", "tiny"), tmp_path / "2")
    loaded = load_model(model, "cpu", torch.float32).dit
    torch.testing.assert_close(loaded.patch_embedding.weight.detach(), weight.half().float())


def test_a_student_without_a_teacher_comes_with_its_speech_encoder(begun: Path, tmp_path: Path) -> None:
    add_teacher(begun)
    average = torch.load(begun / "teacher.pt", weights_only=True)["average"]
    torch.save({"finetune": average}, begun / "student.pt")
    (begun / "teacher.pt").unlink()
    save_file({"blocks.0.mlp.0.up": torch.zeros(3, 2)}, tmp_path / "tuned")
    options = ["--run", str(begun), "--out", str(tmp_path / "out"), "--preset", "tiny"]
    partial_export.main([*options, "--speech_tuning", str(tmp_path / "tuned")])
    model = unpacked(sorted((tmp_path / "out").glob("so_far.tar.*")), tmp_path / "home")
    assert read_config(model).speech.tuning == "speech.safetensors"
    assert (model / "speech.safetensors").read_bytes() == (tmp_path / "tuned").read_bytes()
    assert load_model(model, "cpu", torch.float32, parts=("dit",)).dit is not None
