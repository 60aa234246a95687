"""Rule by which a cleaned track may replace the raw one; the docstring of `enhance` says it in words."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from liveavatar.audio import denoise as gate
from liveavatar.audio.dnsmos import Opinion
from liveavatar.audio.transcribe import HeardWords, Transcript
from liveavatar.audio.vad import Segment

MIN_GAIN = 0.15  # opinion points overall
MAX_SPEECH_LOSS = 0.20  # opinion points of the speech itself
MAX_LOGPROB_LOSS = 0.05  # natural log per token
MAX_OVER_PAUSES = 3.0  # dB by which more may be taken out of the speech than its pauses hold
LEAST_TAKEN = -8.0  # dB, over the sound in speech: less than that, without pauses, may be the speech's own


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One recipe of cleaning and its scores (None: not scored)."""

    name: str
    opinion: Opinion | None = None
    transcript: Transcript | None = None
    wer: float | None = None  # against the reference text
    change: float | None = None  # word error rate against the transcript of raw
    heard: tuple[HeardWords, ...] | None = None  # whether its words may replace raw's, a stretch each
    agreed: bool | None = None  # the raw track speaks for its words, too
    refused: str | None = None  # why it may not replace raw

    def as_dict(self, chosen: str) -> dict[str, Any]:
        """Convert to a JSON-able row of the report."""
        return {
            "name": self.name,
            "dnsmos": self.opinion.overall if self.opinion else None,
            "dnsmos_speech": self.opinion.speech if self.opinion else None,
            "dnsmos_background": self.opinion.background if self.opinion else None,
            "wer": self.wer,
            "change": self.change,
            "agreed": self.agreed,
            "avg_logprob": self.transcript.avg_logprob if self.transcript else None,
            "refused": self.refused,
            "chosen": self.name == chosen,
        }


def harm(raw: Candidate, other: Candidate) -> str | None:
    """Give the reason why a candidate may not replace raw; None when it may.

    What was not judged on both sides is no obstacle; a candidate that nothing judged may not replace raw.
    """
    if raw.opinion is None and (raw.transcript is None or other.transcript is None):
        return "nothing could judge it"
    if raw.opinion and other.opinion:
        if other.opinion.overall < raw.opinion.overall + MIN_GAIN:
            return f"DNSMOS {other.opinion.overall:.2f} is not {MIN_GAIN} above raw's {raw.opinion.overall:.2f}"
        if other.opinion.speech < raw.opinion.speech - MAX_SPEECH_LOSS:
            return f"DNSMOS of the speech falls from {raw.opinion.speech:.2f} to {other.opinion.speech:.2f}"
    return _less_recognisable(raw, other)


def _less_recognisable(raw: Candidate, other: Candidate) -> str | None:
    if raw.wer is not None and other.wer is not None:
        return f"word error rate rises from {raw.wer:.2f} to {other.wer:.2f}" if other.wer > raw.wer else None
    before = raw.transcript.avg_logprob if raw.transcript else None
    after = other.transcript.avg_logprob if other.transcript else None
    if before is None or after is None:
        return None
    if after < before - MAX_LOGPROB_LOSS:
        return f"Whisper is less sure of it: {before:.2f} to {after:.2f} per token"
    if other.agreed is False:
        return f"Whisper hears other words in it ({other.change or 0.0:.0%}), which raw does not hold"
    return None


def speech_over_pauses(audio: np.ndarray, speech: list[Segment]) -> float | None:
    """Estimate the signal-to-noise ratio in dB: mean power of speech over that of its pauses; None without pauses."""
    pauses = gate.pauses(audio, speech)
    if not speech or pauses is None:
        return None
    return _decibels(float(np.square(spoken(audio, speech)).mean()), float(np.square(pauses, dtype=np.float64).mean()))


def takes_speech(level: np.ndarray, cleaned: np.ndarray, speech: list[Segment]) -> str | None:
    """Give the reason why what a candidate takes out must in part be speech; None when it may all be noise.

    Args:
        level: float32 [samples], the raw track.
        cleaned: the candidate's, at any gain.
        speech: of the raw track.
    """
    before, after = spoken(level, speech), spoken(cleaned, speech)
    gain = float(before @ after) / max(float(after @ after), 1e-12)
    taken = _decibels(float(np.square(before - gain * after).mean()), float(np.square(before).mean()))
    distance = speech_over_pauses(level, speech)
    if distance is None and taken < LEAST_TAKEN:
        return f"it takes out little ({taken:.0f} dB), which may be speech: no pause tells what the noise is"
    if distance is not None and taken > MAX_OVER_PAUSES - distance:
        return f"it takes more out of the speech ({taken:.0f} dB) than the pauses hold ({-distance:.0f} dB)"
    return None


def spoken(audio: np.ndarray, speech: list[Segment]) -> np.ndarray:
    """Join the speech segments of a track, float64 [samples]."""
    parts = [audio[s.start : s.stop] for s in speech]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(1)


def _decibels(power: float, over: float) -> float:
    return 10 * math.log10(max(power, 1e-12) / max(over, 1e-12))
