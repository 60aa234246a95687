"""Do prompt words show: the same portrait and sound under two prompts that differ in one phrase.

An *effect* is how much a measure of the video changes from the second phrase to the first; `asked` is the least change
that counts as seen, a third of `true`, which is what the phrases mean in the corpus itself (three avatars drawn both
ways; for the energy, the ratio of head motion).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.bench.quality.faces import FaceCurves, head_spread, read_faces
from liveavatar.bench.quality.videos import RenderedScene, Video, render_scene, video_frames
from liveavatar.engine.engine import Engine
from liveavatar.face.landmarks import FaceTracker
from liveavatar.timing import BLOCK_FRAMES

Measure = Callable[[np.ndarray, FaceCurves], float]
CORNER = 1 / 4  # of the picture's width and height: the upper corners show the place, not the person


def warmth(frames_THW3: np.ndarray, faces: FaceCurves) -> float:
    """Compute the mean of red minus blue over the picture, grey levels."""
    mean = frames_THW3.reshape(-1, 3).mean(0)
    return float(mean[0] - mean[2])


def brightness(frames_THW3: np.ndarray, faces: FaceCurves) -> float:
    """Compute the mean grey level of the picture."""
    return float(frames_THW3.mean())


def corner_warmth(frames_THW3: np.ndarray, faces: FaceCurves) -> float:
    """Compute the `warmth` of the upper corners."""
    height, width = (round(CORNER * n) for n in frames_THW3.shape[1:3])
    upper = frames_THW3[:, :height]
    return warmth(np.concatenate([upper[:, :, :width], upper[:, :, -width:]], 2), faces)


def smile(frames_THW3: np.ndarray, faces: FaceCurves) -> float:
    """Compute the median height of the mouth's corners above its middle, in hundredths of the eye distance."""
    return float(100 * np.nanmedian(faces.lift))


def liveliness(frames_THW3: np.ndarray, faces: FaceCurves) -> float:
    """Compute the logarithm (base 2) of the head's spread in degrees: 1 = twice as lively."""
    return float(np.log2(max(head_spread(faces.head), 1e-3)))


@dataclass(frozen=True, slots=True)
class Words:
    """Two prompts and what should differ."""

    name: str
    first: str
    second: str
    measure: Measure
    true: float  # effect in the corpus's own pictures
    unit: str
    blocks: int = 3  # of each video

    @property
    def least(self) -> float:
        """The least effect that counts as seen."""
        return self.true / 3


def _prompt(
    action: str = "speaks to the camera", mood: str = "with a relaxed face", light: str = "soft natural lighting",
    place: str = "a plain light grey background",
) -> str:  # fmt: skip
    return f"A person {action} {mood}, {light}, {place}."


PAIRS: tuple[Words, ...] = (
    Words("light, warm against cold", _prompt(light="warm tungsten light"), _prompt(light="cold fluorescent light"),
          warmth, 35.0, "grey levels"),
    Words("light, studio against low-key", _prompt(light="studio lighting"), _prompt(light="moody low-key lighting"),
          brightness, 31.0, "grey levels"),
    Words("background, red against sky blue", _prompt(place="a plain red background"),
          _prompt(place="a plain sky blue background"), corner_warmth, 200.0, "grey levels"),
    Words("mood, smiling against serious", _prompt(mood="with a friendly smile"),
          _prompt(mood="with a serious expression"), smile, 4.5, "eye distances / 100", 5),
    Words("energy, lively against calm", _prompt(action="speaks energetically with lively head movement"),
          _prompt(action="talks with a still head"), liveliness, 1.9, "octaves", 9),
)  # fmt: skip


# Two videos of a whole clip to look at, by the name of the file.
SHOWN = {
    "quiet": _prompt(action="talks with a still head"),
    "lively": _prompt(action="speaks energetically with lively head movement"),
}


def videos_to_show(engine: Engine, scene: RenderedScene, out: Path, steps: int = 4) -> list[Video]:
    """Write `quiet.mp4` and `lively.mp4` of one clip into `out`."""
    videos = []
    for name, prompt in SHOWN.items():
        video = render_scene(engine, scene, steps, prompt=prompt)
        videos.append(Video(video.path.replace(out / f"{name}.mp4"), video.ms_per_frame, video.block_ms))
    return videos


@dataclass(frozen=True, slots=True)
class Effect:
    """Effect of a changed phrase."""

    words: str
    first: float
    second: float
    effect: float
    asked: float  # least effect that counts as seen
    true: float
    unit: str
    seen: bool


def try_words(engine: Engine, scene: RenderedScene, words: Words, tracker: FaceTracker, steps: int = 4) -> Effect:
    """Render a scene under both prompts and measure the difference."""
    scene = replace(scene, num_frames=min(scene.num_frames, words.blocks * BLOCK_FRAMES))

    def measured(prompt: str) -> float:
        frames = video_frames(render_scene(engine, scene, steps, prompt=prompt))
        return words.measure(frames, read_faces(frames, tracker))

    first, second = measured(words.first), measured(words.second)
    seen = bool(first - second >= words.least)
    return Effect(words.name, first, second, first - second, words.least, words.true, words.unit, seen)


def try_prompts(engine: Engine, scene: RenderedScene, tracker: FaceTracker, steps: int = 4) -> list[dict[str, Any]]:
    """Render every pair of prompts and return rows of the report."""
    return [asdict(try_words(engine, scene, words, tracker, steps)) for words in PAIRS]
