"""The alarm: what is a collapse and what is a glitch, and the frames of a face that blurs, vanishes or stops."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from liveavatar.face.models import FaceModelUnavailable
from liveavatar.paths import SAMPLES
from liveavatar.render.collapse import (
    SAMPLE_FRAMES,
    SHORTEST,
    WINDOW_FRAMES,
    Collapse,
    CollapseWatch,
    FaceWatch,
    Sample,
    find_collapse,
    gradient,
    read_samples,
)
from liveavatar.timing import FPS

GOOD = Sample(0, likeness=0.9, sharpness=8.0, motion=1.5)
WAYS = {
    "likeness": {"likeness": 0.5},
    "sharpness": {"sharpness": 3.9},
    "too sharp": {"sharpness": 21.0},
    "motion": {"motion": 0.02},
}


def samples(*bad: int, of: int = 15, **change: float | None) -> list[Sample]:
    """Samples of a good video, but those numbered."""
    made = [replace(GOOD, frame=(i + 1) * SAMPLE_FRAMES - 1) for i in range(of)]
    return [replace(sample, **change) if i in bad else sample for i, sample in enumerate(made)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("bad", "of", "frame"),
    [
        pytest.param(range(5, 15), 15, 250, id="after the first window"),
        pytest.param(range(4, 15), 15, 200, id="in the first window"),
        pytest.param(range(9, 20), 20, 450, id="in a window before"),
        pytest.param([5, 6, 7, 8, 10, 11, 13], 15, 250, id="in most samples of two windows"),
        pytest.param((), 15, None, id="never"),
        pytest.param(range(10, 15), 15, None, id="in one window"),
        pytest.param([*range(5, 10), 12, 13], 15, None, id="it comes back"),
        pytest.param(range(5, 14), 14, None, id="the second window is not over"),
        pytest.param(range(5, 10), 10, None, id="too short"),
    ],
)
def test_two_bad_windows_are_a_collapse(bad: list[int], of: int, frame: int | None, way: str) -> None:
    found = find_collapse(samples(*bad, of=of, **WAYS[way]))
    assert (found and found.frame) == frame
    if found is not None:
        assert found.measure == way.replace("too sharp", "sharpness")
        assert f"from {found.seconds:.0f} s on" in str(found)
        assert f"at {found.share:.0%} of the first ten seconds" in str(found)
        assert found.seconds == found.frame / FPS


@pytest.mark.parametrize("missing", [2, 7, 12])
def test_a_sample_that_a_crash_has_taken_moves_no_window(missing: int) -> None:
    made = samples(*range(5, 15), likeness=0.5)
    del made[missing]
    assert find_collapse(made) == find_collapse(samples(*range(5, 15), likeness=0.5))
    assert find_collapse(made[:-1]) is None


def test_what_cannot_be_measured_is_no_collapse() -> None:
    unknown = [replace(sample, likeness=None, sharpness=None) for sample in samples()]
    assert find_collapse(unknown) is None
    faceless = samples(*range(5, 15), likeness=0.0, sharpness=None)
    assert find_collapse(faceless) == Collapse(250, "likeness", 0.0)


@pytest.mark.parametrize(
    ("name", "factor", "falls"),
    [
        ("likeness", 0.71, False), ("likeness", 0.69, True), ("sharpness", 0.61, False), ("sharpness", 0.59, True),
        ("sharpness", 1.9, False), ("sharpness", 2.1, True), ("motion", 0.11, False), ("motion", 0.09, True),
    ],
)  # fmt: skip
def test_a_measure_may_leave_the_first_window_so_far(name: str, factor: float, falls: bool) -> None:
    changed = samples(*range(5, 15), **{name: factor * getattr(GOOD, name)})
    assert (find_collapse(changed) is not None) == falls


@cache
def picture() -> np.ndarray:
    return np.asarray(Image.open(SAMPLES / "portrait.png").convert("RGB").resize((256, 384)))


def watched(folder: Path, spoil: Callable[[np.ndarray, int], np.ndarray], first: int = 0) -> Collapse | None:
    """Watch a portrait that sways, spoiled after 12 s; the frames come in blocks, up to `SHORTEST` and a window."""
    still = picture()
    watch = CollapseWatch(still, folder / "samples.jsonl")
    watch.begin(first)
    for begin in range(first, SHORTEST + WINDOW_FRAMES, 12):
        numbers = range(begin, begin + 12)
        frames = np.stack([spoil(np.roll(still, i % 5, axis=1), i) if i >= 300 else np.roll(still, i % 5, axis=1)
                           for i in numbers])  # fmt: skip
        found = watch.add(frames, begin)
        if found is not None:
            return found
    return watch.take()


@pytest.mark.parametrize(
    ("spoil", "measure"),
    [
        pytest.param(lambda frame, _: frame, None, id="good"),
        pytest.param(lambda frame, _: cv2.GaussianBlur(frame, (0, 0), 3), "sharpness", id="blurred"),
        pytest.param(lambda frame, _: np.full_like(frame, 90), "likeness", id="no face"),
        pytest.param(lambda frame, _: picture(), "motion", id="stands still"),
        pytest.param(lambda frame, i: frame if i % 250 < 200 else np.full_like(frame, 90), None, id="flashes"),
    ],
)
def test_a_face_that_falls_apart_is_noticed(
    spoil: Callable[[np.ndarray, int], np.ndarray], measure: str | None, tmp_path: Path
) -> None:
    found = watched(tmp_path, spoil)
    assert (found and found.measure) == measure
    if found is not None:
        assert 200 <= found.frame <= 300


def test_a_resumed_video_is_judged_as_an_undisturbed_one(tmp_path: Path) -> None:
    spoiled: Callable[[np.ndarray, int], np.ndarray] = lambda frame, _: cv2.GaussianBlur(frame, (0, 0), 3)  # noqa: E731
    expected = watched(tmp_path, spoiled)
    ledger = tmp_path / "samples.jsonl"
    whole = ledger.read_text().splitlines()
    resumed = watched(tmp_path, spoiled, first=480)
    assert resumed == replace(expected, share=pytest.approx(expected.share)) if expected else False
    assert len(ledger.read_text().splitlines()) == len(whole)


def test_a_damaged_ledger_counts_up_to_the_damage(tmp_path: Path) -> None:
    watched(tmp_path, lambda frame, _: picture())
    ledger = tmp_path / "samples.jsonl"
    lines = ledger.read_text().splitlines()
    assert [sample.frame for sample in read_samples(ledger)] == [(i + 1) * SAMPLE_FRAMES - 1 for i in range(len(lines))]
    for damage in (lines[3].replace('"frame": 199', '"frame": 198'), "{", '{"frame": 1}', "[1]"):
        ledger.write_text("\n".join([*lines[:3], damage, *lines[4:]]))
        assert len(read_samples(ledger)) == 3
    assert read_samples(tmp_path / "none") == []


def test_without_face_networks_motion_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise FaceModelUnavailable("no face network")

    monkeypatch.setattr("liveavatar.face.landmarks.FaceTracker.__init__", missing)
    assert FaceWatch(picture()).read(picture()) == (None, None)


def test_a_portrait_without_a_face_leaves_motion() -> None:
    assert FaceWatch(np.full((64, 64, 3), 90, np.uint8)).read(picture()) == (None, None)


def test_gradient_is_in_grey_levels_a_pixel() -> None:
    ramp = np.repeat(np.arange(0, 100, 2, dtype=np.uint8)[None, :, None], 8, axis=0).repeat(3, axis=2)
    assert gradient(ramp) == pytest.approx(2.0)
    assert gradient(ramp[:1]) is None
