"""The rule of cleaning: what gains, takes no speech away and keeps the words may replace the raw track."""

import numpy as np
import pytest

from liveavatar.audio.dnsmos import Opinion
from liveavatar.audio.harm import Candidate, harm, speech_over_pauses, spoken, takes_speech
from liveavatar.audio.transcribe import Transcript
from liveavatar.audio.vad import Segment
from tests.audio.sounds import noise, tone

S = 16_000
SPEECH = [Segment(start=S, stop=3 * S)]


def _judged(overall: float | None, speech: float = 3.0, agreed: bool | None = None, **heard: float | None) -> Candidate:
    opinion = None if overall is None else Opinion(overall=overall, speech=speech, background=3.0)
    logprob = heard.get("logprob")
    transcript = None if logprob is None else Transcript(text="a b", words=(), language="en", avg_logprob=logprob)
    return Candidate(
        name="x",
        opinion=opinion,
        transcript=transcript,
        wer=heard.get("wer"),
        change=heard.get("change"),
        agreed=agreed,
    )


@pytest.mark.parametrize(
    ("raw", "other", "reason"),
    [
        pytest.param(_judged(2.0), _judged(2.5), None, id="better"),
        pytest.param(_judged(2.0), _judged(1.9), "DNSMOS 1.90", id="worse"),
        pytest.param(_judged(2.0), _judged(2.14), "DNSMOS 2.14", id="hardly better"),
        pytest.param(_judged(2.0), _judged(2.16), None, id="just better"),
        pytest.param(_judged(2.0, 3.0), _judged(2.5, 2.7), "speech falls", id="speech suffers"),
        pytest.param(_judged(2.0, wer=0.1), _judged(2.5, wer=0.2), "error rate rises", id="more words wrong"),
        pytest.param(_judged(2.0, wer=0.2), _judged(2.5, wer=0.2), None, id="as many words wrong"),
        pytest.param(_judged(2.0, logprob=-0.3), _judged(2.5, logprob=-0.5), "less sure", id="less sure"),
        pytest.param(
            _judged(2.0, logprob=-0.8), _judged(2.5, agreed=False, logprob=-0.4, change=0.5), "other words (50%)",
            id="likelier words that raw does not hold",
        ),
        pytest.param(
            _judged(2.0, logprob=-0.3), _judged(2.5, agreed=True, logprob=-0.3, change=0.1), None, id="words of both"
        ),
        pytest.param(_judged(2.0, logprob=-0.3), _judged(2.5, agreed=True, logprob=-0.34), None, id="same words"),
        pytest.param(_judged(None), _judged(None), "nothing could judge", id="no judge at all"),
        pytest.param(_judged(None, logprob=-0.5), _judged(None, logprob=-0.5, change=0.0), None, id="Whisper alone"),
    ],
)  # fmt: skip
def test_rule(raw: Candidate, other: Candidate, reason: str | None) -> None:
    got = harm(raw, other)
    assert (got is None) == (reason is None)
    assert reason is None or all(part in (got or "") for part in reason.split(" ("))


def _voice() -> np.ndarray:
    return np.pad(tone(2.0, S, 0.3), (S, S))


@pytest.mark.parametrize(
    ("level", "kept", "speech", "reason"),
    [
        pytest.param(0.05, 1.0, SPEECH, None, id="only noise is taken out"),
        pytest.param(0.05, 0.8, SPEECH, None, id="a gain takes nothing out"),
        pytest.param(0.002, 1.0, SPEECH, None, id="little noise, of which little is taken out"),
        pytest.param(0.1, 1.0, [Segment(start=0, stop=4 * S)], None, id="no pauses, much taken out"),
        pytest.param(0.01, 1.0, [Segment(start=0, stop=4 * S)], "takes out little", id="no pauses, little taken out"),
    ],
)
def test_noise_may_be_taken_out(level: float, kept: float, speech: list[Segment], reason: str | None) -> None:
    got = takes_speech(_voice() + noise(4.0, level), np.float32(kept) * _voice(), speech)
    assert (got is None) == (reason is None)
    assert reason is None or reason in (got or "")


def test_more_than_the_pauses_hold_is_speech() -> None:
    second = np.pad(tone(2.0, S, 0.1)[::-1], (S, S)) * np.sign(np.sin(np.arange(4 * S) / 3)).astype(np.float32)
    track = _voice() + second + noise(4.0, 0.005)
    assert "than the pauses hold" in (takes_speech(track, _voice(), SPEECH) or "")
    assert takes_speech(track, track - noise(4.0, 0.005), SPEECH) is None


def test_speech_is_compared_with_its_pauses() -> None:
    track = _voice() + noise(4.0, 0.3 / np.sqrt(2) / 10)
    assert speech_over_pauses(track, SPEECH) == pytest.approx(20.0, abs=0.5)
    assert speech_over_pauses(track, []) is None
    assert speech_over_pauses(track, [Segment(start=0, stop=4 * S)]) is None
    assert len(spoken(track, SPEECH)) == 2 * S
