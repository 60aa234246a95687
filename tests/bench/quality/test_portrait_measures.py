"""Measures of a portrait's film: known curves and pictures, and the true film of a clip."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from liveavatar.audio.transcribe import Word
from liveavatar.bench.quality import portrait_measures
from liveavatar.bench.quality.portrait_measures import (
    PortraitVideo,
    bilabial_gaps,
    energies_kept,
    face_energy,
    measure_video,
    read_portrait_video,
    speaks_in_sync,
)
from liveavatar.bench.quality.videos import Video
from liveavatar.face.landmarks import Face, FaceTracker
from liveavatar.media.film import FilmWriter
from liveavatar.quality.split import Clip
from liveavatar.timing import SAMPLES_PER_FRAME


@pytest.mark.parametrize(
    ("lag", "error", "speaks"), [(0, 0.0, True), (0, 1.0, True), (0, 1.01, False), (1, 0.0, False), (None, None, False)]
)
def test_a_portrait_speaks_without_lag_and_with_a_small_error(
    lag: int | None, error: float | None, speaks: bool
) -> None:
    assert speaks_in_sync(lag, error) is speaks


def word(text: str, start: float) -> Word:
    return Word(start=start, end=start + 0.2, text=text, probability=1.0)


@pytest.mark.parametrize(
    ("text", "gaps"),
    [
        pytest.param(" my", [0.01], id="m"),
        pytest.param(' "Picture', [0.01], id="capital and quote"),
        pytest.param("boy", [0.01], id="b"),
        pytest.param("them.", [0.15], id="m at the end"),
        pytest.param("Pam", [0.01, 0.15], id="both"),
        pytest.param("voice", [], id="open lips"),
        pytest.param("photo", [], id="a p that is an f"),
    ],
)
def test_the_gap_is_the_least_around_the_edge_of_a_word(text: str, gaps: list[float]) -> None:
    openness = np.full(50, 0.2)
    openness[27], openness[40] = 0.01, 0.0  # one frame before the word starts at 28; 40 is far behind it
    openness[26], openness[34] = np.nan, 0.15  # the word ends at 33
    assert bilabial_gaps(openness.tolist(), [word(text, 28 / 25)]).tolist() == gaps


def test_a_word_without_a_face_is_not_counted() -> None:
    assert bilabial_gaps([float("nan")] * 50, [word("my", 1.0)]).size == 0


PICTURE = np.random.default_rng(0).integers(60, 190, (80, 80, 3), dtype=np.uint8)
FACE = Face(np.float32([[20, 20], [60, 20], [20, 60], [60, 60]] * 120)[:478], 1.0)


def faded(contrast: float) -> np.ndarray:
    return np.rint(125 + contrast * (PICTURE.astype(float) - 125)).astype(np.uint8)


def test_half_the_contrast_is_a_quarter_of_the_energy() -> None:
    assert face_energy(faded(0.5), FACE) == pytest.approx(face_energy(PICTURE, FACE) / 4, rel=0.03)


def test_energies_are_those_of_the_face_in_the_film_and_in_its_first_frame() -> None:
    frames = np.stack([faded(0.25), *[faded(0.5)] * 30])
    frames[:, :15], frames[:, 66:] = 0, 255  # outside the ellipse
    film = PortraitVideo(Path(), PICTURE, frames, FACE, [FACE] * 31)
    assert energies_kept(film) == pytest.approx((0.25, 0.25), rel=0.05)
    assert energies_kept(PortraitVideo(Path(), PICTURE, frames, None, [None] * 31)) == (None, None)


def test_likeness_is_read_while_speaking_and_what_is_missing_has_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = pd.DataFrame({"identity": [0.9, 0.7, np.nan, 0.8, 0.1], "speech": [True, True, True, True, False]})
    metrics = dict.fromkeys(portrait_measures.VIDEO_MEASURES, 0.5) | {"av_offset_frames": 0, "flicker": None}
    reasons = {"wer_before": "the sound was not cleaned", "flicker": "one frame only"}
    result = SimpleNamespace(metrics=metrics, frames=seen, reasons=reasons)
    monkeypatch.setattr(portrait_measures, "evaluate_video", lambda *_, **__: result)
    film = PortraitVideo(Path(), PICTURE, np.stack([PICTURE] * 5), FACE, [FACE] * 5)
    values = measure_video(film, np.zeros(16, np.float32), [])
    assert values["likeness"] == pytest.approx(0.8)
    assert (values["speaks"], values["sync_error_frames"], values["flicker"]) == (True, 0.5, None)
    assert (values["bilabial_gap"], values["bilabials_shut"]) == (None, None)
    assert values["energy_face"] == pytest.approx(1)
    assert values["note"] == "one frame only"


@pytest.mark.nightly
def test_a_true_film_speaks_and_to_another_sound_it_does_not(stored: list[Clip], tmp_path: Path) -> None:
    clip, count, late = stored[0], 75, 12
    frames, speech = clip.frames()[:count], clip.speech()
    video = Video(tmp_path / "film.mp4")
    with FilmWriter(video.path, size=(frames.shape[2], frames.shape[1]), audio=speech) as writer:
        writer.write(frames)
        writer.close()
    film = read_portrait_video(video, clip.photo(), FaceTracker())
    words = [word("my", 1.0), word("voice", 2.0)]
    true = measure_video(film, speech[: count * SAMPLES_PER_FRAME], words)
    other = measure_video(film, speech[late * SAMPLES_PER_FRAME : (late + count) * SAMPLES_PER_FRAME], words)
    assert (true["speaks"], other["speaks"]) == (True, False)
    assert other["av_offset_frames"] == pytest.approx(late, abs=2)
    assert true["likeness"] > 0.85
    assert true["energy_face"] == pytest.approx(1, abs=0.25)
    assert true["energy_first"] == pytest.approx(1, abs=0.25)
    assert 0 <= true["bilabial_gap"] < true["openness_range"]
    assert true["bilabials_shut"] in (0, 1)
