"""`liveavatar bench prompts --heard`: words of mood, light and place, and whether the video shows them.

One portrait and one sound are rendered for a second under a plain prompt, and under the same with a word more.
A word is heard if its measure moves in its direction by at least the size given here.
"""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar import paths
from liveavatar.bench.quality.faces import corner_lift
from liveavatar.bench.quality.videos import RenderedScene, make_scene, render_scene, video_frames
from liveavatar.engine.engine import Engine
from liveavatar.errors import InputError
from liveavatar.face.landmarks import FaceTracker
from liveavatar.load import load_engine
from liveavatar.media.portrait import fit_portrait, load_portrait
from liveavatar.prompt.heard import hear
from liveavatar.quality.split import load_split
from liveavatar.timing import BLOCK_FRAMES

PLAIN = {"en": "A person speaks to the camera.", "zh": "一个人对着镜头说话。"}
BLOCKS = 2
PORTRAIT = paths.DATA / "samples" / "portrait.png"
CORNER = 1 / 4  # of width and height: the upper corners show the place, not the person
_BROWS = ((105, 159), (334, 386))  # points of the face mesh: middle of a brow, upper lid below it
LEAST = {"lift": 1.5, "brow": 1.0, "brightness": 8.0, "warmth": 8.0, "colour": 15.0, "corner": 20.0}
# facet -> measure and direction -> words in English and in Chinese, parted by bars
WORDS: dict[str, dict[str, tuple[str, str]]] = {
    "mood": {
        "lift+": ("happy|cheerful|smiling|friendly", "开心的|快乐的|微笑的|友好的"),
        "lift-": ("angry|sad|serious|worried|furious", "愤怒的|悲伤的|严肃的|担忧的|暴怒的"),
        "brow+": ("surprised|shocked|afraid", "惊讶的|震惊的|害怕的"),
    },
    "light": {
        "brightness-": ("dark room|dim light|at night", "昏暗的房间|黑暗|深夜"),
        "warmth+": ("candlelight|sunset|warm lamp light|golden hour", "烛光|夕阳|暖光|黄昏"),
        "warmth-": ("moonlight|cold light|fluorescent light", "月光|冷光|荧光灯"),
        "colour": ("neon light|backlit", "霓虹灯|逆光"),
    },
    "place": {
        "corner": (
            "on a beach|in a forest|in an office|in a library|in front of a red wall|teal background|in a city street|"
            "in a kitchen|in a park|on a stage|white background|green curtain",
            "在海滩上|在森林里|在办公室里|在图书馆里|红色的墙前|青色背景|在街头|在厨房里|在公园里|在舞台上|白色背景|绿色窗帘",
        )
    },
}


@dataclass(frozen=True, slots=True)
class Look:
    """Measures of one video."""

    lift: float  # of the mouth's corners, eye distances / 100
    brow: float  # height of the brows above the lids, eye distances / 100
    brightness: float  # grey levels
    warmth: float  # red minus blue, grey levels
    colour: np.ndarray  # mean colour, grey levels [3]
    corner: np.ndarray  # of the upper corners [3]


@dataclass(frozen=True, kw_only=True, slots=True)
class WordHeard:
    """Outcome of one word."""

    facet: str
    language: str
    word: str
    measure: str
    effect: float
    least: float
    heard: bool
    text: str  # what the model read


def look_of(frames_THW3: np.ndarray, tracker: FaceTracker) -> Look:
    """Measure a video."""
    tracker.reset()
    faces = [face for face in (tracker.track(rgb) for rgb in frames_THW3) if face is not None]
    height, width = (round(CORNER * n) for n in frames_THW3.shape[1:3])
    upper = frames_THW3[:, :height]
    colour = frames_THW3.reshape(-1, 3).mean(0)
    brows = [
        np.mean([np.hypot(*(face.points[a] - face.points[b])) for a, b in _BROWS]) / face.eye_distance for face in faces
    ]
    return Look(
        lift=100 * float(np.median([corner_lift(face) for face in faces])) if faces else float("nan"),
        brow=100 * float(np.median(brows)) if faces else float("nan"),
        brightness=float(colour.mean()),
        warmth=float(colour[0] - colour[2]),
        colour=colour,
        corner=np.concatenate([upper[:, :, :width], upper[:, :, -width:]], 2).reshape(-1, 3).mean(0),
    )


def effect_of(measure: str, video: Look, plain: Look) -> float:
    """Return how far a measure moved in its direction: "warmth-" is positive where the video is colder."""
    name = measure.rstrip("+-")
    change = np.asarray(getattr(video, name)) - np.asarray(getattr(plain, name))
    if change.ndim:
        return float(np.linalg.norm(change))
    return float(-change if measure.endswith("-") else change)


def prompts_of(facet: str, language: str, word: str) -> str:
    """Write the plain prompt with a word more."""
    if language == "zh":
        return f"一个{word}人对着镜头说话。" if facet == "mood" else f"一个人对着镜头说话，{word}。"
    plain = PLAIN["en"].removesuffix(".")
    return plain.replace("A person", f"A {word} person") + "." if facet == "mood" else f"{plain}, {word}."


def bench_heard(model_dir: Path, say: Callable[[str], None] = lambda _: None, steps: int = 4) -> list[dict[str, Any]]:
    """Render every word on the sample portrait; rows of the report.

    Raises:
        InputError: the model has a large text encoder, which reads prompts as they are.
    """
    engine = load_engine(model_dir)
    if engine.config.text.words_read is None:
        raise InputError(f"bench prompts --heard measures mini; {engine.config.name} reads prompts as they are written")
    with tempfile.TemporaryDirectory() as folder:
        photo = fit_portrait(load_portrait(PORTRAIT), engine.config.default_area, engine.config)
        scene = make_scene(Path(folder), photo, load_split(limit=1)[0].speech(), PLAIN["en"], engine)
        scene = replace(scene, num_frames=min(scene.num_frames, BLOCKS * BLOCK_FRAMES))
        return [asdict(row) for row in _rows(engine, scene, FaceTracker(), say, steps)]


def _rows(
    engine: Engine, scene: RenderedScene, tracker: FaceTracker, say: Callable[[str], None], steps: int
) -> list[WordHeard]:
    def look(prompt: str) -> Look:
        return look_of(video_frames(render_scene(engine, scene, steps, prompt=prompt)), tracker)

    plain = {language: look(prompt) for language, prompt in PLAIN.items()}
    rows = []
    for facet, measures in WORDS.items():
        for measure, languages in measures.items():
            for language, words in zip(PLAIN, languages, strict=True):
                for word in words.split("|"):
                    prompt = prompts_of(facet, language, word)
                    effect = effect_of(measure, look(prompt), plain[language])
                    least = LEAST[measure.rstrip("+-")]
                    text = hear(prompt, engine.config.text.length).text
                    rows.append(
                        WordHeard(
                            facet=facet,
                            language=language,
                            word=word,
                            measure=measure,
                            effect=round(effect, 2),
                            least=least,
                            heard=effect >= least,
                            text=text,
                        )
                    )
                    say(f"{language} {word}: {measure} {effect:.1f}")
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Write the rows as tables: heard of each facet and language, then every word."""
    table = ["| facet | language | words heard |", "|---|---|---|"]
    for facet in WORDS:
        for language in PLAIN:
            these = [row for row in rows if (row["facet"], row["language"]) == (facet, language)]
            table.append(f"| {facet} | {language} | {sum(row['heard'] for row in these)} of {len(these)} |")
    table += ["", "| word | measure | effect | least | heard | what the model read |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row["word"], row["measure"], row["effect"], row["least"], "yes" if row["heard"] else "no", row["text"])
        table.append("| " + " | ".join(map(str, cells)) + " |")
    return table
