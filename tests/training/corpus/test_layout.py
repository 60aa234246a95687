"""Clip files: what was written comes back, and a killed writer loses only its last clips."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.training.corpus.layout import ClipLabels, ClipWriter, OtherPhoto, list_clips

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


def with_other(number: int) -> ClipLabels:
    return replace(labels(number), other=OtherPhoto(frames(number + 50)[0], f"Clip {number} in warm light"))


def test_other_photos_come_back(tmp_path: Path) -> None:
    writer = ClipWriter.open(tmp_path / "portrait_0.npy", SHAPE, 5, list("abcde"), others=True)
    for k in range(3):
        writer.add(frames(k), with_other(k))
    writer.write_labels()
    assert all(r.other is None for r in writer.rows), "pictures do not stay in memory"
    (file,) = list_clips(tmp_path, "train")
    assert file.frames.shape == (3, *SHAPE)
    np.testing.assert_array_equal(file.others, [frames(k + 50)[0] for k in range(3)])
    assert file.other_captions == [f"Clip {k} in warm light" for k in range(3)]
    assert file.captions == [f"Clip {k}: café" for k in range(3)]
    with pytest.raises(ValueError, match="or none"):
        writer.add(frames(3), labels(3))
    assert len(writer.rows) == 3


@pytest.mark.parametrize("lost", [pytest.param(True, id="lost"), pytest.param(False, id="never made")])
def test_without_other_photos_they_are_the_photos(lost: bool, tmp_path: Path) -> None:
    writer = ClipWriter.open(tmp_path / "portrait_0.npy", SHAPE, 5, list("abcde"), others=lost)
    for k in range(2):
        writer.add(frames(k), with_other(k) if lost else labels(k))
    writer.write_labels()
    (tmp_path / "portrait_0.other.npy").unlink(missing_ok=True)
    (file,) = list_clips(tmp_path, "train")
    np.testing.assert_array_equal(file.others, [frames(k)[-1] for k in range(2)])
    assert file.other_captions == file.captions == ["Clip 0: café", "Clip 1: café"]


def test_other_photos_of_another_run_are_refused_or_removed(tmp_path: Path) -> None:
    path, beside = tmp_path / "portrait_0.npy", tmp_path / "portrait_0.other.npy"
    writer = ClipWriter.open(path, SHAPE, 3, list("abcde"), others=True)
    writer.add(frames(0), with_other(0))
    writer.write_labels()
    np.save(beside, np.zeros((3, 9, 6, 3), np.uint8))
    with pytest.raises(InputError, match="different runs"):
        list_clips(tmp_path, "train")
    ClipWriter.open(path, SHAPE, 3, list("abcde"))
    assert not beside.exists()
    ClipWriter.open(path, SHAPE, 3, list("abcde"), others=True).write_labels()
    assert not beside.exists(), "a file without clips is removed, and what lies beside it"
