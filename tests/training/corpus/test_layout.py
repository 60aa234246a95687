"""Clip files: what was written comes back, and a killed writer loses only its last clips."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.training.corpus.layout import ClipLabels, ClipWriter, list_clips

SHAPE = (13, 8, 6, 3)


def labels(number: int) -> ClipLabels:
    rng = np.random.default_rng(number)
    return ClipLabels(
        landmarks=rng.uniform(0, 384, (13, 68, 2)),
        expression=rng.uniform(0, 1, (13, 5)),
        head=rng.normal(size=(13, 3)),
        gaze=rng.normal(size=(13, 2)),
        track=number * 2,
        block=number * 3,
        seed=900_000_000 + number,
        caption=f"Clip {number}: café",
    )


def frames(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)


def test_round_trip(tmp_path: Path) -> None:
    writer = ClipWriter.open(tmp_path / "portrait_0.npy", SHAPE, 5, list("abcde"))
    for k in range(3):
        writer.add(frames(k), labels(k))
    writer.write_labels()
    (file,) = list_clips(tmp_path, "train")
    assert len(file.frames) == 3
    assert not writer.full
    for k in range(3):
        np.testing.assert_array_equal(file.frames[k], frames(k))
        np.testing.assert_allclose(file.landmarks[k], labels(k).landmarks, atol=1e-4)
        np.testing.assert_allclose(file.expression[k], labels(k).expression, atol=1e-3)
    assert file.captions == [f"Clip {k}: café" for k in range(3)]
    assert file.tracks.tolist() == [0, 2, 4]
    assert file.blocks.tolist() == [0, 3, 6]
    assert file.seeds.tolist() == [900_000_000, 900_000_001, 900_000_002]
    assert file.expression_names == list("abcde")


def test_killed_writer_keeps_what_was_labelled(tmp_path: Path) -> None:
    writer = ClipWriter.open(tmp_path / "landscape_3.npy", SHAPE, 40, list("abcde"))
    for k in range(25):
        writer.add(frames(k), labels(k))
    (file,) = list_clips(tmp_path, "train")  # never closed
    assert len(file.frames) == 20
    np.testing.assert_array_equal(file.frames[19], frames(19))


def test_splits_orientations_and_empty_files(tmp_path: Path) -> None:
    for name, count in (("portrait_0", 1), ("landscape_0", 2), ("eval_portrait_0", 1), ("eval_landscape_0", 0)):
        writer = ClipWriter.open(tmp_path / f"{name}.npy", SHAPE, 3, list("abcde"))
        for k in range(count):
            writer.add(frames(k), labels(k))
        writer.write_labels()
    assert [f.path.stem for f in list_clips(tmp_path, "train")] == ["landscape_0", "portrait_0"]
    assert [f.path.stem for f in list_clips(tmp_path, "eval")] == ["eval_portrait_0"]
    assert not (tmp_path / "eval_landscape_0.npy").exists()


def test_labels_of_another_run_are_refused(tmp_path: Path) -> None:
    writer = ClipWriter.open(tmp_path / "portrait_0.npy", SHAPE, 3, list("abcde"))
    writer.add(frames(0), labels(0))
    writer.write_labels()
    np.save(tmp_path / "portrait_0.npy", np.zeros((3, 20, 8, 6, 3), np.uint8))
    with pytest.raises(InputError, match="different runs"):
        list_clips(tmp_path, "train")
