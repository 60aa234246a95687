"""Videos to judge: made by the engine as a render makes them, or written from the true pictures by the same coder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from liveavatar.audio.features import write_features
from liveavatar.engine.engine import Engine
from liveavatar.engine.settings import RenderSettings
from liveavatar.media.ffmpeg import read_frames
from liveavatar.media.film import FilmWriter
from liveavatar.quality.split import Clip
from liveavatar.render.job import CanvasPicture, RenderJob, run_job
from liveavatar.render.sound import FileSound
from liveavatar.render.timings import timing_summary
from liveavatar.timing import SAMPLE_RATE

SEED = 420


@dataclass(frozen=True, slots=True)
class RenderedScene:
    """Inputs of a rendered video, as files in a folder of its own."""

    folder: Path
    photo: np.ndarray  # uint8 [H, W, 3]
    prompt: str
    num_frames: int
    canvas: CanvasPicture | None = None  # into which the face is pasted; None: the video is what the model renders

    @property
    def sound(self) -> Path:
        """The driving sound, 16 kHz."""
        return self.folder / "speech.wav"

    @property
    def features(self) -> Path:
        """The driving features."""
        return self.folder / "features.pt"


@dataclass(frozen=True, slots=True)
class Video:
    """A video and how long it took."""

    path: Path
    ms_per_frame: float | None = None  # all of the work over all frames
    block_ms: float | None = None  # median pace of a block


def scene_of(clip: Clip, engine: Engine, folder: Path) -> RenderedScene:
    """Read photo, sound and features of a clip of the split."""
    return make_scene(folder / clip.info.name, clip.photo(), clip.speech(), clip.info.caption, engine)


def make_scene(folder: Path, photo: np.ndarray, speech: np.ndarray, prompt: str, engine: Engine) -> RenderedScene:
    """Write what the engine reads.

    Args:
        folder: made when missing.
        photo: uint8 [H, W, 3], of a size the model makes.
        speech: float32 mono at 16 kHz.
        prompt: what is to be seen.
        engine: whose speech features are wanted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(folder / "photo.png")
    scene = RenderedScene(folder, photo, prompt, 0)
    soundfile.write(scene.sound, speech, SAMPLE_RATE, subtype="FLOAT", format="WAV")
    num_frames = write_features(scene.sound, scene.features, engine.config.speech, engine.model_dir)
    return RenderedScene(folder, photo, prompt, num_frames)


def render_scene(
    engine: Engine,
    scene: RenderedScene,
    steps: int,
    head: np.ndarray | None = None,
    prompt: str | None = None,
    photo_head: np.ndarray | None = None,
    eyes: np.ndarray | None = None,
) -> Video:
    """Run the engine on a scene: the block loop, the streaming decoder and the coder of a render.

    Args:
        engine: a loaded model.
        scene: from `make_scene`.
        steps: of denoising.
        head: the head pose to follow [T, 3], radians; None lets the model move the head.
        prompt: instead of the scene's own.
        photo_head: true head pose of the photo [3], radians, for a model that takes `head` relative to it; None: it
            is read off the photo.
        eyes: the eye track to follow [T, 1 or 3], only with `head`; None lets it follow from the seed.
    """
    name = f"steps{steps}" + "-posed" * (head is not None) + "-eyes" * (eyes is not None) + "-prompt" * bool(prompt)
    pose = None
    if head is not None:
        pose = scene.folder / "pose.npy"
        np.save(pose, np.concatenate([head] if eyes is None else [head, eyes], 1, dtype=np.float32))
    job = RenderJob(
        digest=name, work_dir=scene.folder / name, image=scene.folder / "photo.png",
        sound=FileSound(features=scene.features, audio=scene.sound, num_frames=scene.num_frames),
        settings=RenderSettings(prompt=prompt or scene.prompt, seed=SEED, sample_steps=steps),
        pose=pose, portrait_pose=None if photo_head is None else tuple(photo_head.tolist()), canvas=scene.canvas,
        online=True,
    )  # fmt: skip
    result = run_job(engine, job)
    timing = timing_summary(result.rows, result.num_frames, result.render_s)
    video = result.video.replace(scene.folder / f"{name}.mp4")
    shutil.rmtree(job.work_dir)
    job.work_dir.with_suffix(".lock").unlink(missing_ok=True)
    return Video(video, timing["ms_per_frame"], timing["block_ms_p50"])


def true_video(clip: Clip, scene: RenderedScene) -> Video:
    """Write the true pictures of a clip through the coder of a render."""
    frames = clip.frames()
    path = scene.folder / "truth.mp4"
    with FilmWriter(path, size=(frames.shape[2], frames.shape[1]), audio=scene.sound) as writer:
        writer.write(frames)
        writer.close()
    return Video(path)


def video_frames(video: Video) -> np.ndarray:
    """Read all pictures of a video, uint8 [T, H, W, 3]."""
    return np.stack([frame.rgb for frame in read_frames(video.path)])
