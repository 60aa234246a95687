"""Weights of an unfinished run are exported and packed."""

from pathlib import Path

import torch

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
