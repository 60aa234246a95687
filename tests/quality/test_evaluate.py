"""Whole videos: all keys, honest gaps, and verdicts that good videos pass and broken ones do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.face.models import FaceModelUnavailable
from liveavatar.media.film import FilmWriter
from liveavatar.quality import observe
from liveavatar.quality.absence import Absence
from liveavatar.quality.evaluate import METRICS, SHORTEST, QualityResult, evaluate_video
from liveavatar.quality.split import load_split
from liveavatar.quality.suites import Verdict, judge
from liveavatar.timing import SAMPLE_RATE
from tests.puppet import Puppet, babble

Video = tuple[Path, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def good(spoken: Video, portrait: np.ndarray) -> QualityResult:
    timings = [{"index": i, "denoise_s": 0.3, "decode_s": 0.1 + 0.1 * (i == 4)} for i in range(11)]
    sound = {"dnsmos_before": 2.0, "dnsmos_after": 3.0, "wer_before": 0.2, "wer_after": 0.1}
    return evaluate_video(spoken[0], portrait, spoken[1], audio_metrics=sound, block_timings=timings)


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if check.status == "failed"}


def test_a_good_video_passes(good: QualityResult) -> None:
    verdict = judge(good)
    assert verdict.status == "passed", [c for c in verdict.checks if c.status not in ("passed", "skipped")]
    assert {check.name for check in verdict.checks} >= {"av_offset_frames", "identity_min", "frames.luminance"}


def test_every_key_of_the_contract_is_there(good: QualityResult) -> None:
    assert set(METRICS) <= set(good.metrics)
    for name, value in good.metrics.items():
        assert (value is None) == (name in good.reasons), name
    text = json.dumps({**judge(good, expectations=False).as_dict(), "metrics": good.metrics}, allow_nan=False)
    assert json.loads(text)["status"] == "passed"


def test_tables_line_up_with_the_video(good: QualityResult, spoken: Video) -> None:
    assert len(good.frames) == len(spoken[2]) == 125
    assert good.frames["block"].tolist() == [t // 12 for t in range(125)]
    assert good.blocks["num_frames"].tolist() == [12] * 10 + [5]
    assert good.blocks["deadline_missed"].tolist() == [i == 4 for i in range(11)]
    assert good.blocks["block_ms"].iloc[0] == pytest.approx(400)


def break_video(fault: str, puppet: Puppet) -> tuple[np.ndarray, np.ndarray]:
    """Frames and sound of a video with one fault."""
    seconds = 4 if fault in ("wrong sound", "late", "no face") else 2.4
    audio, openness = babble(seconds, seed=1)
    rng = np.random.default_rng(0)
    tremble = 4 * rng.standard_normal((len(openness), 2)) * (fault == "jitter")
    frames = np.stack([puppet.frame(float(o), tuple(tremble[t])) for t, o in enumerate(openness)])
    if fault == "frozen":
        frames[:] = puppet.rgb
    elif fault == "wrong sound":
        audio = babble(seconds, seed=3)[0]
    elif fault == "late":
        frames = np.roll(frames, 6, axis=0)
    elif fault == "black":
        frames[20:40] = 0
    elif fault == "short":
        frames = frames[:40]
    elif fault == "no face":
        frames = rng.integers(0, 256, frames.shape, np.uint8)
    return frames, audio


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        pytest.param("frozen", {"motion_energy", "openness_range", "repeated_frames"}, id="a frozen face"),
        pytest.param(
            "wrong sound", {"av_offset_frames"}, id="the sound of another sentence", marks=pytest.mark.nightly
        ),
        pytest.param("late", {"av_offset_frames"}, id="lips a quarter of a second late"),
        pytest.param("black", {"dropped_frames", "frames.luminance", "face_share"}, id="twenty black frames"),
        pytest.param("short", {"dropped_frames", "duration_error_s"}, id="twenty frames missing at the end"),
        pytest.param(
            "no face", {"face_share", "av_offset_frames"}, id="noise instead of a face", marks=pytest.mark.nightly
        ),
        pytest.param("jitter", {"jerk_index"}, id="a trembling head", marks=pytest.mark.nightly),
    ],
)
def test_a_broken_video_fails(
    fault: str, checks: set[str], puppet: Puppet, portrait: np.ndarray, tmp_path: Path
) -> None:
    frames, audio = break_video(fault, puppet)
    height, width = puppet.rgb.shape[:2]
    with FilmWriter(tmp_path / "broken.mp4", size=(width, height), audio=audio) as writer:
        writer.write(frames)
        video = writer.close()
    verdict = judge(evaluate_video(video, portrait, audio), expectations=False)
    assert verdict.status == "failed"
    assert checks <= failed(verdict)


def test_a_good_video_of_a_moment_is_not_failed(puppet: Puppet, portrait: np.ndarray, tmp_path: Path) -> None:
    audio, openness = babble(1.2, seed=1)
    moment = evaluate_video(puppet.video(tmp_path / "moment.mp4", openness, audio), portrait)
    assert {moment.absences[name] for name in SHORTEST} == {Absence.NOT_APPLICABLE}
    assert moment.reasons["av_offset_frames"] == "the video is too short to tell: this needs 4 s"
    assert not failed(judge(moment, expectations=False))


def test_another_person_is_not_passed(spoken: Video) -> None:
    other = load_split()[1].photo()
    verdict = judge(evaluate_video(spoken[0], other, spoken[1]), expectations=False)
    assert next(c.status for c in verdict.checks if c.name == "identity_min") in ("warned", "failed")


def test_a_portrait_without_a_face_is_not_passed(spoken: Video) -> None:
    creature = np.full((256, 384, 3), 90, np.uint8)
    creature[60:200, 100:280] = (40, 160, 60)
    result = evaluate_video(spoken[0], creature, spoken[1])
    assert result.metrics["lip_sync"] is None
    assert "no face was found in the portrait" in result.reasons["lip_sync"]
    assert result.metrics["flicker"] is not None
    assert judge(result, expectations=False).status == "failed"
    assert judge(result, allow_unjudged=True, expectations=False).status == "warned"


def test_a_missing_model_gives_null_and_fails_unless_allowed(
    spoken: Video, portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise FaceModelUnavailable("the model file is missing")

    monkeypatch.setattr(observe, "IdentityNet", missing)
    result = evaluate_video(spoken[0], portrait, spoken[1])
    assert result.metrics["identity_min"] is None
    assert result.reasons["identity_min"] == "the model file is missing"
    assert result.metrics["av_offset_frames"] == 0
    verdict = judge(result, allow_unjudged=True, expectations=False)
    assert (verdict.status, judge(result, expectations=False).status) == ("warned", "failed")
    unjudged = {"identity_min", "identity_drift", "identity_loss"}
    assert {c.name for c in verdict.checks if c.status == "warned"} == unjudged


def test_a_silent_job_is_judged_without_lips(puppet: Puppet, portrait: np.ndarray, tmp_path: Path) -> None:
    audio = np.zeros(2 * SAMPLE_RATE, np.float32)
    video = puppet.video(tmp_path / "silent.mp4", np.zeros(50), audio)
    result = evaluate_video(video, portrait, audio)
    verdict = judge(result)
    assert result.has_speech is False
    assert "av_offset_frames" not in {c.name for c in verdict.checks}
    assert verdict.status == "passed"


@pytest.mark.parametrize("fps", [30, pytest.param(20, marks=pytest.mark.nightly)])
def test_a_video_of_another_rate_keeps_its_offset(
    fps: int, puppet: Puppet, portrait: np.ndarray, tmp_path: Path
) -> None:
    audio, openness = babble(4, seed=3)
    times = np.arange(4 * fps) / fps
    height, width = puppet.rgb.shape[:2]
    with FilmWriter(tmp_path / "film.mp4", size=(width, height), audio=audio, fps=fps) as writer:
        for opening in np.interp(times, np.arange(len(openness)) / 25, openness):
            writer.write(puppet.frame(float(opening))[None])
        video = writer.close()
    result = evaluate_video(video, portrait, audio)
    assert result.metrics["av_offset_frames"] == 0
    assert result.metrics["dropped_frames"] == 0
    assert result.metrics["duration_error_s"] == pytest.approx(0, abs=0.04)


@pytest.mark.parametrize("content", [b"", b"hello, this is no video"])
def test_what_is_no_video_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match="film"):
        evaluate_video(path, None)
