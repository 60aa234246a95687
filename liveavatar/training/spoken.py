"""Measurement of a mouth at the sounds of a language: `python -m liveavatar.training.spoken --out DIR`.

espeak-ng speaks sentences of Mandarin and of English and says when each sound begins; the model renders them; the mouth
of the video is read at each sound. Lips must shut for p, b and m, open for a, round for u and ü and spread for i. A
model whose speech encoder was trained on English has to show that for Mandarin, too. espeak-ng is a tool of this
measurement, as of the corpus: no render needs it.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from liveavatar import paths
from liveavatar.bench.dated import today, write_dated
from liveavatar.bench.quality.videos import make_scene, render_scene, video_frames
from liveavatar.engine.engine import Engine
from liveavatar.face.landmarks import FaceTracker
from liveavatar.load import load_engine
from liveavatar.quality.split import load_split
from liveavatar.timing import FPS, SAMPLE_RATE

log = logging.getLogger(__name__)

SHUT = 0.08  # openness, eye distances, under which lips are shut; at rest they read 0.01 to 0.06
REACH = 1  # frames before and after a sound in which its shape may be reached
RATE, PITCH = 150, 50  # words a minute; espeak-ng's scale
PROMPT = "A person speaks to the camera."
VOICES = {"Mandarin": "cmn-latn-pinyin", "English": "en-us"}
SENTENCES = {
    "Mandarin": [
        "妈妈抱着宝宝去买面包。",
        "他把报纸放在旁边。",
        "我们明天一起去北京。",
        "飞机七点半起飞。",
        "大家好，今天天气非常好。",
        "请你帮我打开那扇大门。",
        "她喜欢在湖边跑步。",
        "爸爸马上就要上班了。",
        "图书馆里有五百本书。",
        "绿色的鱼在水里游来游去。",
        "这个苹果多少钱一斤？",
        "木瓜和葡萄都不贵。",
        "朋友们一边喝茶一边聊天。",
        "早上八点半，部门开会。",
    ],
    "English": [
        "My mother bought some bread and butter for the baby.",
        "He put the paper beside the big map.",
        "We move to Boston tomorrow morning.",
        "The plane takes off at half past seven.",
        "Good day to you all, the weather is fine.",
        "Please help me open that large door.",
        "She likes to jog along the blue pool.",
        "Papa must leave for work by noon.",
        "The library has five hundred books.",
        "Green fish swim up and down in the pond.",
        "How much does a box of apples cost?",
        "Plums and melons are both cheap.",
        "Friends drink tea and chat about films.",
        "At eight in the morning the team will meet.",
    ],
}
# First character of an IPA symbol -> what the lips do for it.
KINDS = {
    "shut": frozenset("pbm"),
    "open": frozenset("aɑæ"),
    "round": frozenset("uyoɔwʊ"),
    "spread": frozenset("ieɛɪ"),
}
_NEITHER = frozenset({"i.", "i̪", "o-"})  # vowels after s, sh and zh: neither spread nor round


class Speaker(Protocol):
    """Synthesiser that tells when each sound begins."""

    def speak(self, text: str, voice: str) -> tuple[np.ndarray, int, list[tuple[float, str]]]:
        """Speak: samples, their rate, and (second, IPA symbol) of every sound."""


class EspeakSpeaker:
    """espeak-ng, by its library."""

    def __init__(self) -> None:
        from liveavatar.training.corpus.speech.voices import EspeakLibrary

        self._library = EspeakLibrary()

    def speak(self, text: str, voice: str) -> tuple[np.ndarray, int, list[tuple[float, str]]]:
        """Speak a sentence."""
        spoken = self._library.say(text, voice, RATE, PITCH)
        return spoken.audio, spoken.sample_rate, self._library.onsets


@dataclass(frozen=True, slots=True)
class SpokenSound:
    """One sound whose mouth shape is known."""

    kind: str  # of KINDS
    start: float  # s
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageRow:
    """Mouth at the sounds of one language; values are eye distances unless said."""

    language: str
    seconds: float
    sounds: dict[str, int]  # of each kind
    shut_share: float  # of p, b, m in which the lips shut
    openness: dict[str, float]  # median of each kind: the least of a shut one, the most of the others
    width: dict[str, float]  # median in the middle of each kind
    open_over_shut: float  # chance that an open sound is wider open than a shut one; 0.5 by chance
    spread_over_round: float  # chance that the mouth is wider in a spread one than in a round one


def sounds_of(onsets: Iterable[tuple[float, str]], end: float) -> list[SpokenSound]:
    """Find the sounds whose mouth shape is known.

    Args:
        onsets: (second, IPA symbol), in order.
        end: of the sound, s.
    """
    rows = [(at, symbol.strip("ˈˌː_ ")) for at, symbol in onsets]
    found = []
    for (start, symbol), (stop, _) in zip(rows, [*rows[1:], (end, "")], strict=True):
        kind = next((kind for kind, first in KINDS.items() if symbol[:1] in first), "") if symbol else ""
        if kind and symbol not in _NEITHER and stop > start:
            found.append(SpokenSound(kind, start, stop))
    return found


def speak_all(speaker: Speaker, sentences: Sequence[str], voice: str) -> tuple[np.ndarray, list[SpokenSound]]:
    """Speak sentences one after another: float32 mono 16 kHz, and their sounds."""
    pieces: list[np.ndarray] = []
    sounds: list[SpokenSound] = []
    for sentence in sentences:
        audio, rate, onsets = speaker.speak(sentence, voice)
        offset = sum(map(len, pieces)) / SAMPLE_RATE
        spoken = sounds_of(onsets, len(audio) / rate)
        sounds += [SpokenSound(s.kind, s.start + offset, s.end + offset) for s in spoken]
        pieces.append(_at_16_khz(audio, rate))
    return np.concatenate(pieces), sounds


def _at_16_khz(audio: np.ndarray, rate: int) -> np.ndarray:
    from scipy.signal import resample_poly

    divisor = int(np.gcd(rate, SAMPLE_RATE))
    return resample_poly(audio, SAMPLE_RATE // divisor, rate // divisor).astype(np.float32)


def measure(language: str, sounds: Sequence[SpokenSound], openness_T: np.ndarray, width_T: np.ndarray) -> LanguageRow:
    """Read the mouth at every sound.

    Args:
        language: its name.
        sounds: with their times in the video.
        openness_T: of the mouth, NaN where there is no face.
        width_T: of the mouth.
    """
    opened: dict[str, list[float]] = {kind: [] for kind in KINDS}
    widths: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for sound in sounds:
        part = slice(max(0, int(sound.start * FPS) - REACH), int(np.ceil(sound.end * FPS)) + REACH)
        middle = min(int((sound.start + sound.end) / 2 * FPS), len(width_T) - 1)
        values = openness_T[part][np.isfinite(openness_T[part])]
        if len(values) and np.isfinite(width_T[middle]):
            opened[sound.kind].append(float(values.min() if sound.kind == "shut" else values.max()))
            widths[sound.kind].append(float(width_T[middle]))
    return LanguageRow(
        language=language,
        seconds=round(len(openness_T) / FPS, 1),
        sounds={kind: len(values) for kind, values in opened.items()},
        shut_share=round(float(np.mean(np.array(opened["shut"]) < SHUT)), 3),
        openness={kind: round(float(np.median(values)), 3) for kind, values in opened.items()},
        width={kind: round(float(np.median(values)), 3) for kind, values in widths.items()},
        open_over_shut=round(chance_above(opened["open"], opened["shut"]), 3),
        spread_over_round=round(chance_above(widths["spread"], widths["round"]), 3),
    )


def chance_above(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Compute the chance that one of the first values exceeds one of the second (area under the curve)."""
    steps = np.sign(np.subtract.outer(np.array(higher), np.array(lower)))
    return float((steps.mean() + 1) / 2)


def run(
    engine: Engine, speaker: Speaker, folder: Path, clips: Sequence[str], count: int, say: Callable[[str], None]
) -> list[LanguageRow]:
    """Speak, render and read every language with every portrait.

    Args:
        engine: a loaded model.
        speaker: of the sentences.
        folder: for videos.
        clips: of the evaluation split, whose photos speak.
        count: sentences of each language.
        say: receives a line for each video.
    """
    photos = {clip.info.name: clip.photo() for clip in load_split() if clip.info.name in clips}
    tracker = FaceTracker(1)
    rows = []
    for language, sentences in SENTENCES.items():
        audio, sounds = speak_all(speaker, sentences[:count], VOICES[language])
        curves = []
        for name, photo in photos.items():
            scene = make_scene(folder / f"{language}-{name}", photo, audio, PROMPT, engine)
            tracker.reset()
            faces = [tracker.track(rgb) for rgb in video_frames(render_scene(engine, scene, 4))]
            curves.append([(f.openness, f.mouth_width) if f else (np.nan, np.nan) for f in faces])
            say(f"{language}, clip {name}: {len(faces) / FPS:.1f} s")
        shifts = np.cumsum([0, *(len(curve) for curve in curves)]) / FPS
        moved = [SpokenSound(s.kind, s.start + shift, s.end + shift) for shift in shifts[:-1] for s in sounds]
        openness, width = np.concatenate([np.array(curve) for curve in curves]).T
        rows.append(measure(language, moved, openness, width))
    return rows


def lines(rows: Sequence[LanguageRow]) -> list[str]:
    """Write the rows as a table."""
    table = [
        "| language | seconds | p b m: lips shut | least open p b m, most open a | a over p b m | width u ü o, i e "
        "| i e over u ü o |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        table.append(
            f"| {row.language} | {row.seconds:g} | {row.shut_share:.0%} of {row.sounds['shut']} "
            f"| {row.openness['shut']:.3f}, {row.openness['open']:.3f} | {row.open_over_shut:.3f} "
            f"| {row.width['round']:.3f}, {row.width['spread']:.3f} | {row.spread_over_round:.3f} |"
        )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement and write a dated report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--model", type=Path, default=paths.MINI_DIR, help="model directory")
    parser.add_argument("--clips", default="00,05", help="clips of the evaluation split whose photos speak")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES["English"]), help="of each language")
    options = parser.parse_args(arguments)
    clips, count = options.clips.split(","), options.sentences
    with tempfile.TemporaryDirectory() as folder:
        rows = run(load_engine(options.model), EspeakSpeaker(), Path(folder), clips, count, log.info)
    heading = f"# The mouth at the sounds of a language, {today()}"
    page = "\n".join([heading, "", _about(options.clips, count), "", *lines(rows)])
    content: dict[str, Any] = {"rows": [asdict(row) for row in rows]}
    path = write_dated(options.out, f"spoken_{today()}", page + "\n", content)
    sys.stdout.write(f"{path}\n")


def _about(clips: str, count: int) -> str:
    return (
        f"Command: `python -m liveavatar.training.spoken --out DIR --clips {clips} --sentences {count}`. espeak-ng "
        f"speaks {count} sentences of each language. Openness and width of the mouth are medians, in eye "
        'distances; "over" is the chance that a sound of the first kind shows more than one of the second, 0.5 by luck.'
    )


if __name__ == "__main__":
    main()
