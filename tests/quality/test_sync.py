"""Offsets and lip measures on curves whose answer is known, then on video files of a real face."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.quality import sync
from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.quality.evaluate import evaluate_video
from liveavatar.quality.split import load_split
from liveavatar.timing import SAMPLE_RATE, SAMPLES_PER_FRAME
from tests.puppet import Puppet, babble


def speech_of(seconds: float = 10, seed: int = 1) -> tuple[sync.Speech, np.ndarray]:
    audio, openness = babble(seconds, seed)
    return sync.Speech.of(audio, len(openness)), openness


@pytest.mark.parametrize(
    ("lag", "noise"),
    [
        pytest.param(lag, noise, id=f"{lag:+d} frames, noise {noise}")
        for noise in (0.0, 0.05)
        for lag in (-12, -3, -1, 0, 1, 2, 9, 20)
    ],
)
def test_av_offset_finds_a_known_shift(lag: int, noise: float) -> None:
    speech, openness = speech_of()
    noisy = np.roll(openness, lag) + noise * np.random.default_rng(0).standard_normal(len(openness))
    assert sync.av_offset(noisy, speech).frames == pytest.approx(lag, abs=0 if noise == 0 else 1)


@pytest.mark.parametrize("lag", [-4, 0, 3, 6])
def test_sync_error_is_the_local_lag(lag: int) -> None:
    speech, openness = speech_of()
    assert sync.sync_error(np.roll(openness, lag), speech) == pytest.approx(abs(lag), abs=0.35)


def test_lags_that_agree_as_well_as_none_do_not_count() -> None:
    times = np.arange(50)
    syllables = 0.1 + 0.1 * np.sin(2 * np.pi * times / 5)  # as alike at every fifth lag
    lips = syllables + 0.004 * np.random.default_rng(2).standard_normal(50)
    speech = sync.Speech(np.full(50, 0.1), syllables**2)
    assert sync.sync_error(lips, speech) == 0
    assert sync.sync_error(np.roll(lips, 2), speech) == 2


def test_sync_error_sees_a_drift_the_offset_hides() -> None:
    speech, openness = speech_of(20)
    times = np.arange(len(openness))
    drifting = np.interp(times - np.linspace(-6, 6, len(times)), times, openness)
    assert sync.sync_error(drifting, speech) > 2
    assert sync.sync_error(openness, speech) < 0.3


def test_wrong_sound_is_told_from_right() -> None:
    right = wrong = 0
    for seed in range(12):
        speech, openness = speech_of(10, seed)
        other = speech_of(10, seed + 100)[1]
        right += sync.av_offset(openness, speech).correlation > 0.8
        offset = sync.av_offset(other, speech)
        wrong += abs(offset.frames) > 2 or offset.correlation < 0.3 or sync.sync_error(other, speech) > 3.5
    assert right == 12
    assert wrong >= 11


def test_missing_faces_do_not_move_the_offset() -> None:
    speech, openness = speech_of()
    holed = np.roll(openness, 4)
    holed[30:50] = np.nan
    assert sync.av_offset(holed, speech).frames == 4


def test_lip_sync_orders_right_wrong_and_shut_mouths() -> None:
    speech, openness = speech_of()
    right = sync.lip_sync(openness, speech.envelope_T)
    wrong = sync.lip_sync(speech_of(10, 7)[1], speech.envelope_T)
    assert right < 0.15 < wrong
    shut = np.full_like(openness, 0.02)
    shut[::12] = 0.3  # opens now and then, but not with the sound
    assert sync.lip_sync(shut, speech.envelope_T) > right + 0.1


def test_silent_lip_reads_only_silence() -> None:
    seconds, rate = 4, SAMPLE_RATE
    audio = np.zeros(seconds * rate, np.float32)
    audio[rate : 2 * rate] = 0.3 * np.random.default_rng(0).standard_normal(rate)
    envelope_T = sync.envelope(audio, 100)
    openness = np.full(100, 0.02)
    openness[25:50] = 0.3
    assert sync.silent_lip(openness, envelope_T) == pytest.approx(0, abs=1e-9)
    assert sync.silent_openness(openness, envelope_T) == pytest.approx(0.02 / 0.3)
    openness[60:100:2] = 0.12  # chatters in silence
    assert sync.silent_lip(openness, envelope_T) > 0.03


@pytest.mark.parametrize(
    ("openness", "audio", "kind"),
    [
        pytest.param(np.full(100, np.nan), "speech", Absence.FAULT, id="no face"),
        pytest.param(np.full(100, 0.1), "speech", Absence.FAULT, id="a mouth that stands still"),
        pytest.param(np.linspace(0, 0.3, 100), "silence", Absence.NOT_APPLICABLE, id="no speech"),
    ],
)
def test_what_cannot_be_measured_says_why(openness: np.ndarray, audio: str, kind: Absence) -> None:
    sound = babble(4, 1)[0] if audio == "speech" else np.zeros(4 * SAMPLE_RATE, np.float32)
    speech = sync.Speech.of(sound, 100)
    for measure in (sync.av_offset, sync.sync_error):
        with pytest.raises(MeasureUnavailable) as error:
            measure(openness, speech)
        assert error.value.kind is kind


@pytest.mark.parametrize(
    ("openness", "quiet_from", "kind"),
    [
        pytest.param(0.02, 100, Absence.NOT_APPLICABLE, id="no silence"),
        pytest.param(np.nan, 50, Absence.FAULT, id="no face in the silence"),
    ],
)
def test_rest_that_cannot_be_watched_says_why(openness: float, quiet_from: int, kind: Absence) -> None:
    envelope_T = np.where(np.arange(100) < quiet_from, 0.1, 0.0)
    with pytest.raises(MeasureUnavailable) as error:
        sync.silent_lip(np.full(100, openness), envelope_T)
    assert error.value.kind is kind


def test_quiet_speech_has_the_same_pauses() -> None:
    sound = np.r_[babble(4, 1)[0], np.zeros(SAMPLE_RATE, np.float32)]
    loud, quiet = (sync.envelope(gain * sound, 125) for gain in (1.0, 0.03))
    for mask in (sync.speech_mask, sync.silence_mask):
        assert mask(loud).any()
        assert mask(quiet).tolist() == mask(loud).tolist()


@pytest.mark.parametrize("offset", [0.01, -0.3])
def test_an_offset_of_the_sound_is_no_loudness(offset: float) -> None:
    sound = np.zeros(100 * 640, np.float32)
    sound[20 * 640 : 40 * 640] = 0.2 * np.sin(np.arange(20 * 640) / 4)
    shifted = sync.Speech.of(sound + np.float32(offset), 100)
    np.testing.assert_allclose(shifted.envelope_T, sync.Speech.of(sound, 100).envelope_T, atol=1e-3)
    assert sync.silence_mask(shifted.envelope_T)[50:95].all()


def test_envelope_is_the_rms_of_each_frame() -> None:
    audio = np.concatenate([np.full(SAMPLES_PER_FRAME, v, np.float32) for v in (0.0, 0.5, -0.25)])
    assert sync.envelope(audio, 4) == pytest.approx([0, 0.5, 0.25, 0])


def test_vowel_envelope_hears_vowels_and_not_hiss_and_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    t = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    vowel = np.where(t < 2, np.sin(2 * np.pi * 700 * t), np.sin(2 * np.pi * 5000 * t)).astype(np.float32)
    whole = sync.vowel_envelope(vowel, 100)
    assert whole[10:40].mean() > 20 * whole[60:90].mean()
    monkeypatch.setattr(sync, "CHUNK", SAMPLE_RATE)
    assert np.abs(sync.vowel_envelope(vowel, 100) - whole).max() < 1e-3


@pytest.mark.parametrize("lag", [-5, *(pytest.param(lag, marks=pytest.mark.nightly) for lag in (0, 3))])
def test_offset_of_a_video_with_shifted_sound(puppet: Puppet, portrait: np.ndarray, tmp_path: Path, lag: int) -> None:
    audio, openness = babble(4, seed=3)
    heard = np.roll(audio, -lag * SAMPLES_PER_FRAME)  # sound early = picture late
    video = puppet.video(tmp_path / "shifted.mp4", openness, heard)
    result = evaluate_video(video, portrait)  # with the video's own track, AAC and all
    assert result.metrics["av_offset_frames"] == lag
    seen = result.frames["openness"].to_numpy()
    assert np.corrcoef(seen, openness)[0, 1] > 0.95


@pytest.mark.parametrize("lag", [6, *(pytest.param(lag, marks=pytest.mark.nightly) for lag in (-6, 0))])
def test_offset_of_rendered_speech(lag: int) -> None:
    clip = load_split()[0]
    audio = np.roll(clip.speech(), -lag * SAMPLES_PER_FRAME)
    offset = evaluate_video(clip.path("film.mkv"), None, audio).metrics["av_offset_frames"]
    assert offset == pytest.approx(lag, abs=1)
