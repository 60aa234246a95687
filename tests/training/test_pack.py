"""Folders and held-out clips are packed whole, in parts of a bounded size."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from liveavatar.training import pack
from tests.training.conftest import ToyRun, unpacked


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


def test_logs_and_measures_are_packed_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "LARGEST_REPORT", 5)
    for name, text in {
        "tuning.jsonl": "12", "autoencoder.jsonl": "34", "refined/autoencoder.jsonl": "56", "logs/tune.log": "1234567",
        "teacher.pt": "no",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    pack.pack_report(tmp_path, tmp_path)
    packed = unpacked(sorted(tmp_path.glob("report.tar.*")), tmp_path / "home", "report")
    assert {path.name: path.read_text() for path in packed.iterdir()} == {
        "tuning.jsonl": "12", "autoencoder.jsonl": "34", "refined_autoencoder.jsonl": "56", "tune.log": "34567",
    }  # fmt: skip


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
