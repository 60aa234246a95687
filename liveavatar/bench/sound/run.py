"""`liveavatar bench sound`: what the pipeline's cleaning does to speech in planted noise.

Clean voices are mixed with each noise at each level, or put into a room, and cleaned as a render cleans them. Compared
before (`--denoise off`) and after, against the clean voice: the words that are published, DNSMOS, and the
scale-invariant distortion. Words that Whisper only guesses are not published, before as after, and count as wrong: so
chance between two guesses is no harm. What Whisper hears in the cleaned sound alone, guesses included, is counted
beside that. The rules of `liveavatar.audio.enhance` were set on the voices of `TUNING`, which are left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar import paths
from liveavatar.audio.dnsmos import dnsmos
from liveavatar.audio.enhance import Enhanced, enhance
from liveavatar.audio.ingest import load_audio
from liveavatar.audio.transcribe import transcribe, word_error_rate
from liveavatar.audio.vad import find_speech
from liveavatar.audio.whisper_weights import load_whisper
from liveavatar.bench.sound import noises
from liveavatar.quality.split import FOLDER
from liveavatar.timing import SAMPLE_RATE

WHISPER = "tiny.en"
SECONDS = 9.0  # of a voice
LEVELS = (0, 5, 10, 20)  # dB, speech over noise
ROOMS = (0.3, 0.6, 1.0, 1.5)  # s until an echo has fallen by 60 dB
QUICK = (("white", 10.0), ("hum", 0.0), ("clicks", 10.0), ("white", 20.0))
TUNING = ("00", "01", "02", "03")  # clips of the evaluation split
MAX_WER_RISE = 0.01
MAX_DISTORTION = 1.0  # dB
NOISY_DB, CLEAN_DB = 10, 20  # dB; cleaning must help up to the one and keep its hands off from the other on


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundRow:
    """One voice in one noise, before and after cleaning."""

    voice: str
    noise: str
    level: float  # dB of speech over noise; seconds of a room's echo
    chosen: str
    clicks: int
    wer_before: float  # of the published words
    wer_after: float
    heard_before: float  # word error rate of all that Whisper hears in the sound alone
    heard_after: float
    dnsmos_before: float
    dnsmos_after: float
    si_sdr_before: float  # dB
    si_sdr_after: float  # dB

    @property
    def harms(self) -> list[str]:
        """Name what cleaning made worse."""
        worse = []
        if self.wer_after > self.wer_before + MAX_WER_RISE:
            worse.append(f"WER {self.wer_before:.2f} to {self.wer_after:.2f}")
        if self.si_sdr_after < self.si_sdr_before - MAX_DISTORTION:
            worse.append(f"SI-SDR {self.si_sdr_before:.1f} to {self.si_sdr_after:.1f} dB")
        return worse

    @property
    def misheard(self) -> bool:
        """Tell if Whisper alone hears more words wrong in the cleaned sound."""
        return self.heard_after > self.heard_before + MAX_WER_RISE


def load_voices(recordings: Path | None = None) -> dict[str, np.ndarray]:
    """Load voices of the evaluation split and of the sample, or those of a folder: 9 s each, float32 mono 16 kHz.

    Raises:
        InputError: a recording cannot be read.
    """
    if recordings is not None:
        files = {path.stem: path for path in sorted(recordings.iterdir()) if path.is_file()}
    else:
        files = {path.name[:2]: path for path in sorted(FOLDER.glob("*.speech.ogg")) if path.name[:2] not in TUNING}
        files["sample"] = paths.DATA / "samples" / "speech.wav"
    return {name: load_audio(path)[: round(SECONDS * SAMPLE_RATE)] for name, path in files.items()}


def conditions(quick: bool = False) -> list[tuple[str, float]]:
    """List noises with their levels, and rooms with their echoes."""
    if quick:
        return list(QUICK)
    kinds = (*noises.NOISES, "babble")
    return [*((kind, float(level)) for kind in kinds for level in LEVELS), *(("room", echo) for echo in ROOMS)]


def run_bench(
    voices: dict[str, np.ndarray], chosen: list[tuple[str, float]], on_row: Callable[[SoundRow], None] = lambda _: None
) -> list[SoundRow]:
    """Mix, clean and measure every voice in every condition.

    Args:
        voices: float32 mono 16 kHz by name; babble needs two.
        chosen: from `conditions`.
        on_row: called with each row as it is measured.
    """
    model = load_whisper(WHISPER)

    def heard(sound: Enhanced) -> str:
        if (
            sound.verdict["chosen"] == "raw"
            and not sound.verdict.get("clicks")
            and not sound.verdict["unclear_seconds"]
        ):
            return sound.text
        return transcribe(sound.audio, find_speech(sound.audio), model, with_words=False).text

    rows = []
    truths = {name: enhance(voice, "off", WHISPER).text for name, voice in voices.items()}
    for name, clean, noisy, kind, level in _mixes(voices, chosen):
        truth, before, after = truths[name], enhance(noisy, "off", WHISPER), enhance(noisy, "auto", WHISPER)
        row = SoundRow(
            voice=name,
            noise=kind,
            level=level,
            chosen=after.verdict["chosen"],
            clicks=after.verdict["clicks"],
            wer_before=round(word_error_rate(truth, before.text), 3),
            wer_after=round(word_error_rate(truth, after.text), 3),
            heard_before=round(word_error_rate(truth, heard(before)), 3),
            heard_after=round(word_error_rate(truth, heard(after)), 3),
            dnsmos_before=round(dnsmos(before.audio).overall, 3),
            dnsmos_after=round(dnsmos(after.audio).overall, 3),
            si_sdr_before=si_sdr(clean, noisy),
            si_sdr_after=si_sdr(clean, after.audio),
        )
        rows.append(row)
        on_row(row)
    return rows


def _mixes(
    voices: dict[str, np.ndarray], chosen: list[tuple[str, float]]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, str, float]]:
    for number, (name, voice) in enumerate(voices.items()):
        for kind, level in chosen:
            rng = np.random.default_rng([number, len(kind), round(10 * level)])
            if kind == "room":
                yield name, voice, noises.reverberant(rng, voice, level), kind, level
                continue
            others = [other for other_name, other in voices.items() if other_name != name]
            noise = noises.babble(others, len(voice)) if kind == "babble" else noises.NOISES[kind](rng, len(voice))
            noisy, clean = noises.mix(voice, noise, level)
            yield name, clean, noisy, kind, level


def si_sdr(clean: np.ndarray, other: np.ndarray) -> float:
    """Compute the scale-invariant signal-to-distortion ratio in dB (Le Roux 2019) of tracks of equal length."""
    clean, other = clean - clean.mean(), other - other.mean()
    target = clean * (float(clean @ other) / max(float(clean @ clean), 1e-12))
    error = other - target
    return round(10 * float(np.log10(max(float(target @ target), 1e-12) / max(float(error @ error), 1e-12))), 2)


def summary(rows: list[SoundRow]) -> dict[str, Any]:
    """Count gains and harms."""
    noisy = [row for row in rows if row.noise != "room" and row.level <= NOISY_DB]
    clean = [row for row in rows if row.noise != "room" and row.level >= CLEAN_DB]

    def mean(values: list[float]) -> float | None:
        return round(float(np.mean(values)), 3) if values else None

    return {
        "conditions": len(rows),
        "harmed": [f"{row.voice} {row.noise} {row.level:g}: {', '.join(row.harms)}" for row in rows if row.harms],
        "misheard": [
            f"{row.voice} {row.noise} {row.level:g}: {row.heard_before:.2f} to {row.heard_after:.2f}"
            for row in rows
            if row.misheard
        ],
        "clearer": sum(row.heard_after < row.heard_before - MAX_WER_RISE for row in rows),
        "wer_before": mean([row.wer_before for row in rows]),
        "wer_after": mean([row.wer_after for row in rows]),
        "dnsmos_gain_noisy": mean([row.dnsmos_after - row.dnsmos_before for row in noisy]),
        "kept_clean": f"{sum(row.chosen == 'raw' for row in clean)} of {len(clean)}",
    }


def to_json(rows: list[SoundRow]) -> dict[str, Any]:
    """Convert the rows and their summary to a JSON-able report."""
    return {"summary": summary(rows), "rows": [asdict(row) for row in rows]}
