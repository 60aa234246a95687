"""Speech enhancement that never harms: several candidates, judged by DNSMOS and by Whisper.

Candidates, all at the same loudness and exactly as long as the input:

=============  ==============================================================
raw            the sound as it came
mild           pauses turned down, gentle stationary gate
stationary     pauses turned down, strong gate against one noise profile
nonstationary  pauses turned down, strong gate against a moving noise floor; only when asked for
rnnoise        pauses turned down, a recurrent network (where it is installed)
=============  ==============================================================

Before that, and not with `off`: clicks are bridged, and speech too quiet for the loudness gate is raised.

The rule of `auto`: speech that stands `CLEAN_DB` above its pauses is left as it is. Else a candidate may replace raw
when all of this holds; of those that may, the best DNSMOS score wins.

* Its DNSMOS overall score gains at least `MIN_GAIN`, and its speech score loses no more than `MAX_SPEECH_LOSS`.
* What it takes out of the speech is no more than the pauses hold, twice (`harm.takes_speech`). Without pauses nothing
  tells noise from a second voice: then it must take out so much that it cannot be the speech.
* It is recognised no worse. With a reference text its word error rate is not above raw's. Without one, Whisper's mean
  log probability drops by no more than `MAX_LOGPROB_LOSS`, and where its words differ from raw's, the raw track
  hardly objects to them (`transcribe.heard_in_both`).

Only raw and candidates that pass the first two are transcribed, the best first, until one may. A gate against a moving
floor distorts speech more than noise does (1 to 3 dB), so that `auto` does not try it. The words that are published are
those of the sound as it came, clicks and all, unless others, heard in a cleaner version, are surely the right ones.
The numbers are in `harm`.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from liveavatar.audio import denoise as gate
from liveavatar.audio import rnnoise
from liveavatar.audio.clicks import remove_clicks
from liveavatar.audio.dnsmos import dnsmos
from liveavatar.audio.harm import Candidate, harm, speech_over_pauses, takes_speech
from liveavatar.audio.loudness import integrated_loudness, normalise, raised
from liveavatar.audio.outputs import output_file
from liveavatar.audio.transcribe import (
    Transcript,
    Word,
    chunks_of,
    heard_in_both,
    replaced,
    transcribe,
    word_error_rate,
)
from liveavatar.audio.vad import Segment, find_speech
from liveavatar.audio.whisper_weights import load_whisper
from liveavatar.errors import InputError
from liveavatar.media.clipping import clipped_share
from liveavatar.timing import SAMPLE_RATE

if TYPE_CHECKING:
    from whisper.model import Whisper

log = logging.getLogger(__name__)

GATES = {"mild": ("stationary", 0.5), "stationary": ("stationary", 0.9), "nonstationary": ("nonstationary", 0.85)}
NETWORK = "rnnoise"
AUTO_GATES = ("mild", "stationary")
DENOISE_CHOICES = ("auto", "off", "stationary", "nonstationary", NETWORK)
CLEAN_DB = 17.0  # speech over its pauses, by mean power
PAUSE_FLOOR_DB = -20.0  # gain of pauses, so that the mouth rests
EXCERPT = 30 * SAMPLE_RATE  # samples judged; shorter tracks are judged whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Enhanced:
    """Cleaned sound, its transcript, and the verdict that chose the recipe."""

    audio: np.ndarray  # float32 mono 16 kHz, as long as the input
    words: tuple[Word, ...]
    text: str
    language: str  # two letters; "" where no words were understood
    verdict: dict[str, Any]  # JSON-able; nulls are explained under "reasons"
    candidates: list[dict[str, Any]]


def enhance(
    audio: np.ndarray,
    denoise: str = "auto",
    whisper: str = "tiny.en",
    reference_text: str | None = None,
) -> Enhanced:
    """Clean, level and transcribe a track.

    Args:
        audio: float32 mono 16 kHz within [-1, 1].
        denoise: "auto" judges the candidates; another candidate's name forces it; "off" only levels.
        whisper: model for the words, or "off". Both off load no model at all.
        reference_text: true transcript, if available; enables the word error rates.

    Raises:
        InputError: an unknown choice, or weights that are not installed.
    """
    if denoise not in DENOISE_CHOICES:
        raise InputError(f"--denoise {denoise}: no such mode; choose one of {', '.join(DENOISE_CHOICES)}")
    if denoise == NETWORK and not rnnoise.available():
        raise InputError("--denoise rnnoise: it is not installed (pip install pyrnnoise); choose auto or stationary")
    model = None if whisper == "off" else load_whisper(whisper)
    clicks, clicking = 0, None
    if denoise != "off":
        without, clicks = remove_clicks(audio)
        audio, clicking = without, normalise(audio) if clicks else None
    level = normalise(audio)
    if denoise == "off" and model is None:
        return _unjudged(audio, level)
    speech = find_speech(level)
    if not speech and (speech := find_speech(loud := raised(audio))):
        level = loud
    distance = speech_over_pauses(level, speech)
    is_clean = distance is not None and distance >= CLEAN_DB
    judge = _Judge(level, speech, model, reference_text)
    raw, others = judge.run(_candidates(denoise, bool(speech), is_clean), forced=denoise != "auto")
    chosen, reason = _decide(raw, others, denoise, bool(speech), distance if is_clean else None)
    final = level if chosen.name == "raw" else clean(level, speech, chosen.name)
    transcript = None
    if model is not None:
        known = {"raw": raw, chosen.name: chosen} if judge.whole else {}
        transcript = _words({"raw": level, chosen.name: final}, known, speech, model, clicking)
    verdict = _verdict(raw, chosen, reason, reference_text is not None, model is not None)
    verdict |= {
        "denoise": denoise,
        "whisper": whisper,
        "clicks": clicks,
        "clipped_share": round(clipped_share(audio), 4) if speech else None,
        "speech_over_pauses_db": None if distance is None else round(distance, 1),
        "loudness_before": _finite(integrated_loudness(audio)),
        "loudness_after": _finite(integrated_loudness(final)),
        "unclear_seconds": round(transcript.unclear_seconds, 3) if transcript else None,
        "speech_seconds": round(sum(s.stop - s.start for s in speech) / SAMPLE_RATE, 3),
        "seconds": round(len(audio) / SAMPLE_RATE, 3),
    }
    return Enhanced(
        audio=final,
        words=transcript.words if transcript else (),
        text=transcript.clear_text if transcript else "",
        language=transcript.language if transcript and transcript.clear_text else "",
        verdict=verdict,
        candidates=[c.as_dict(chosen.name) for c in (raw, *others)],
    )


def _words(
    versions: dict[str, np.ndarray],
    known: dict[str, Candidate],
    speech: list[Segment],
    model: "Whisper",
    clicking: np.ndarray | None,
) -> Transcript:
    """Transcribe the sound as it came, and take the words of cleaner versions that are surely the right ones.

    Args:
        versions: tracks without clicks by name, from raw on.
        known: what was heard in them, where they were judged as a whole.
        speech: of these tracks.
        model: for the words.
        clicking: the sound as it came, if it clicks.
    """
    if clicking is not None:
        own = find_speech(clicking)
        came = transcribe(clicking, own, model)
        if chunks_of(own) == chunks_of(speech):
            versions = {"clicking": clicking, **versions}
            known = {"clicking": Candidate(name="clicking", transcript=came), **known}
        elif came.clear_text and not came.unclear_seconds:
            return came  # its stretches are others, which cannot be compared
    (name, first), *cleaner = versions.items()
    came = words = _transcript(known.get(name)) or transcribe(first, speech, model)
    for name, track in cleaner:
        heard = _transcript(known.get(name)) or transcribe(track, speech, model, came.language)
        judged = known[name].heard if clicking is None and name in known else None  # against the sound as it came
        verdicts = judged if judged is not None else heard_in_both((first, track), (came, heard), model)
        words = replaced(words, heard, [verdict.surely for verdict in verdicts])
    return words


def _transcript(candidate: Candidate | None) -> Transcript | None:
    return None if candidate is None else candidate.transcript


def write_words(path: Path, enhanced: Enhanced) -> None:
    """Write the transcript as {"text", "language", "words": [{"start", "end", "text", "probability"}]}, seconds."""
    body = {"text": enhanced.text, "language": enhanced.language, "words": [asdict(w) for w in enhanced.words]}
    with output_file(path) as f:
        f.write(json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n")


def clean(level: np.ndarray, speech: list[Segment], name: str) -> np.ndarray:
    """Apply one candidate's recipe to a levelled track; same length, levelled again."""
    return normalise(gate.attenuate(_reduced(level, speech, name), speech, PAUSE_FLOOR_DB))


def _reduced(level: np.ndarray, speech: list[Segment], name: str) -> np.ndarray:
    if name == NETWORK:
        return rnnoise.reduce_noise(level)
    mode, strength = GATES[name]
    return gate.reduce_noise(level, mode, strength, gate.pauses(level, speech))


def _candidates(denoise: str, has_speech: bool, is_clean: bool) -> list[str]:
    if denoise == "off" or not has_speech or (denoise == "auto" and is_clean):
        return []
    if denoise != "auto":
        return [denoise]
    return [*AUTO_GATES, NETWORK] if rnnoise.available() else [*AUTO_GATES]


class _Judge:
    """Judge of candidates on an excerpt: the 30 s with most speech, or the whole track when it is shorter."""

    def __init__(
        self, level: np.ndarray, speech: list[Segment], model: "Whisper | None", reference: str | None
    ) -> None:
        start = richest_start(speech, len(level))
        stop = min(len(level), start + EXCERPT)
        self.whole = len(level) <= EXCERPT
        self._level = level if self.whole else normalise(level[start:stop])
        self._speech = [
            Segment(start=max(s.start, start) - start, stop=min(s.stop, stop) - start)
            for s in speech
            if s.start < stop and s.stop > start
        ]
        self._model = model
        self._reference = reference if self.whole else None  # a part cannot be compared with the whole text

    def run(self, names: list[str], *, forced: bool) -> tuple[Candidate, list[Candidate]]:
        """Judge raw and the named candidates; DNSMOS on all, Whisper on raw and, best first, until one passes."""
        raw = self._recognise(Candidate(name="raw", opinion=dnsmos(self._level)), self._level, None)
        others, tracks = [], {}
        for name in names:
            tracks[name] = clean(self._level, self._speech, name)
            c = Candidate(name=name, opinion=dnsmos(tracks[name]))
            refused = harm(replace(raw, transcript=None, wer=None), c)
            others.append(replace(c, refused=refused or takes_speech(self._level, tracks[name], self._speech)))
        for c in sorted(others, key=_score, reverse=True):
            if self._model is None or (c.refused and not forced):
                continue
            judged = self._heard_again(raw, self._recognise(c, tracks[c.name], raw.transcript), tracks[c.name])
            others[others.index(c)] = judged
            if judged.refused is None:
                break
        return raw, others

    def _heard_again(self, raw: Candidate, c: Candidate, track: np.ndarray) -> Candidate:
        """Compare the words of a candidate with those of raw."""
        if self._model is None or raw.transcript is None or c.transcript is None:
            return c
        heard = heard_in_both((self._level, track), (raw.transcript, c.transcript), self._model)
        c = replace(c, heard=tuple(heard), agreed=all(verdict.likely for verdict in heard))
        return replace(c, refused=c.refused or harm(raw, c))

    def _recognise(self, c: Candidate, track: np.ndarray, raw: Transcript | None) -> Candidate:
        if self._model is None:
            return c
        t = transcribe(track, self._speech, self._model, raw.language if raw else None)
        wer = None if self._reference is None else word_error_rate(self._reference, t.text, t.language)
        change = None if raw is None else word_error_rate(raw.text, t.text, t.language)
        return replace(c, transcript=t, wer=wer, change=change)


def _score(c: Candidate) -> float:
    return c.opinion.overall if c.opinion else -math.inf


def richest_start(speech: list[Segment], num_samples: int) -> int:
    """Find the start of the excerpt with most speech; it is the start of a segment."""
    if num_samples <= EXCERPT or not speech:
        return 0
    starts = [min(s.start, num_samples - EXCERPT) for s in speech]
    return max(starts, key=lambda a: sum(max(0, min(s.stop, a + EXCERPT) - max(s.start, a)) for s in speech))


def _decide(
    raw: Candidate, others: list[Candidate], denoise: str, has_speech: bool, clean_db: float | None
) -> tuple[Candidate, str]:  # fmt: skip
    if denoise == "off":
        return raw, "--denoise off: only levelled"
    if not has_speech:
        return raw, "no speech was found, so nothing was cleaned"
    if denoise == "auto" and clean_db is not None:
        return raw, f"it is clean: speech stands {clean_db:.0f} dB above its pauses"
    if denoise != "auto":
        forced = others[0]
        return forced, f"--denoise {denoise} was asked for" + (f", though {forced.refused}" if forced.refused else "")
    # a candidate that was never transcribed although Whisper is on has lost to one that was
    free = [c for c in others if c.refused is None and (raw.transcript is None or c.transcript is not None)]
    if not free:
        return raw, "every cleaned candidate would harm: " + "; ".join(f"{c.name}: {c.refused}" for c in others)
    best = max(free, key=_score)
    return best, f"DNSMOS rises from {_score(raw):.2f} to {_score(best):.2f} and the speech is recognised no worse"


def _verdict(
    raw: Candidate, chosen: Candidate, reason: str, has_reference: bool, has_whisper: bool
) -> dict[str, Any]:  # fmt: skip
    reasons = {}
    if raw.wer is None:
        why = "no reference text was given" if not has_reference else "the track is longer than the judged excerpt"
        reasons["wer_before"] = reasons["wer_after"] = why if has_whisper else "--whisper off"
    return {
        "chosen": chosen.name,
        "reason": reason,
        "harm": chosen.refused is not None,
        "dnsmos_before": raw.opinion.overall if raw.opinion else None,
        "dnsmos_after": chosen.opinion.overall if chosen.opinion else None,
        "wer_before": raw.wer,
        "wer_after": chosen.wer,
        "reasons": reasons,
    }


def _unjudged(audio: np.ndarray, level: np.ndarray) -> Enhanced:
    why = "--denoise off and --whisper off load no model"
    keys = ("dnsmos_before", "dnsmos_after", "wer_before", "wer_after", "speech_seconds")
    verdict: dict[str, Any] = {
        "chosen": "raw",
        "reason": "--denoise off: only levelled",
        "harm": False,
        **dict.fromkeys(keys),
        "reasons": dict.fromkeys(keys, why),
        "denoise": "off",
        "whisper": "off",
        "loudness_before": _finite(integrated_loudness(audio)),
        "loudness_after": _finite(integrated_loudness(level)),
        "seconds": round(len(audio) / SAMPLE_RATE, 3),
    }
    return Enhanced(audio=level, words=(), text="", language="", verdict=verdict,
                    candidates=[Candidate(name="raw").as_dict("raw")])  # fmt: skip


def _finite(lufs: float) -> float | None:
    return round(lufs, 2) if math.isfinite(lufs) else None
