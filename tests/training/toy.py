"""A corpus small enough for CI: drawn faces whose mouths follow the loudness of made-up speech.

Same files and labels as the renderer's, no assets needed. Clips are 128x256 and 256x128, 48 frames.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from liveavatar.audio.encoders.whisper_network import WhisperEncoder
from liveavatar.pose.blinks import blink
from liveavatar.training.corpus.layout import ClipLabels, ClipWriter, OtherPhoto
from liveavatar.training.corpus.speech.tracks import SAMPLE_RATE, TrackInfo, write_index, write_track

FRAMES = 48
SECONDS = 3.0
SHAPES = ["eyeBlink_L", "eyeBlink_R"]
GAZE = (0.05, -0.02)  # yaw, pitch against the head, radians
WARM = (1.0, 0.8, 0.6)  # light in the other photos
SIZES = {"portrait": (256, 128), "landscape": (128, 256)}  # height, width


def write_speech(folder: Path, tracks: int = 2) -> None:
    """Tracks of buzzing syllables for both splits, with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    infos = []
    for split in ("train", "eval"):
        for i in range(tracks):
            time = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
            audio = (0.3 * envelope(time, i) * np.sign(np.sin(2 * np.pi * (110 + 30 * i) * time))).astype(np.float32)
            audio += rng.normal(0, 0.001, audio.shape).astype(np.float32)
            info = TrackInfo(
                id=f"{split}{i}", file=f"{split}{i}.ogg", voice="buzz", split=split, seconds=SECONDS, events=[], text=[]
            )
            write_track(folder, info, audio)
            infos.append(info)
    write_index(folder, infos)


def envelope(time: np.ndarray, track: int) -> np.ndarray:
    """Loudness 0..1 of a toy track at times in seconds."""
    return np.clip(np.sin(2 * np.pi * (1.3 + 0.4 * track) * time), 0, 1)


def sway(frame: np.ndarray | int) -> np.ndarray:
    """Where a toy head is turned to at a frame, -1..1."""
    return np.sin(np.asarray(frame) / 9)


def write_clips(folder: Path, train: int = 4, held: int = 2) -> None:
    """Clips of both splits and orientations, `train` and `held` of each; those of training have other photos."""
    for prefix, count in (("", train), ("eval_", held)):
        for orientation, size in SIZES.items():
            writer = ClipWriter.open(
                folder / f"{prefix}{orientation}_0.npy",
                (FRAMES + 1, *size, 3),
                count,
                SHAPES,
                others=not prefix,
            )
            for i in range(count):
                track, block, seed = i % 2, i % 3, i + (100 if prefix else 0)
                frames, landmarks = draw_clip(size, track, block, seed)
                zeros = np.zeros((FRAMES + 1, 3), np.float32)
                shut = blink(np.arange(FRAMES + 1) / 25, at=0.6 + 0.2 * i).astype(np.float32)
                head = zeros + np.outer(sway(np.arange(FRAMES + 1)), (0.2, 0, 0)).astype(np.float32)
                warm = OtherPhoto((frames[-1] * WARM).astype(np.uint8), "a drawn person talks calmly in plain light")
                writer.add(
                    frames,
                    ClipLabels(
                        landmarks=landmarks, expression=np.repeat(shut[:, None], 2, 1), head=head,
                        gaze=zeros[:, :2] + np.float32(GAZE), track=track, block=block, seed=seed,
                        caption="a drawn person talks calmly",
                        other=None if prefix else warm,
                    ),
                )  # fmt: skip
            writer.write_labels()


def draw_clip(size: tuple[int, int], track: int, block: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [49, H, W, 3] and landmarks [49, 68, 2] of one face; the last frame is the photo."""
    rng = np.random.default_rng(seed)
    height, width = size
    skin, shirt = rng.integers(90, 230, 3), rng.integers(0, 255, 3)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = np.empty((FRAMES + 1, height, width, 3), np.uint8)
    landmarks = np.zeros((FRAMES + 1, 68, 2), np.float32)
    cx, cy = width / 2 + rng.uniform(-4, 4), height / 2 + rng.uniform(-4, 4)
    for t in range(FRAMES + 1):
        seconds = (block * 12 + t + 0.5) / 25
        gap = 1.0 if t == FRAMES else 1.0 + 9.0 * float(envelope(np.array(seconds), track))
        mx, my = cx + 2 * sway(t), cy
        picture = np.broadcast_to(shirt, (height, width, 3)).astype(np.float32).copy()
        picture[((x - mx) / 36) ** 2 + ((y - my) / 48) ** 2 < 1] = skin
        picture[((x - mx) / 14) ** 2 + ((y - my - 24) / (gap / 2)) ** 2 < 1] = (60, 10, 20)
        for side in (-1, 1):
            picture[((x - mx - 14 * side) / 5) ** 2 + ((y - my + 12) / 3) ** 2 < 1] = 20
        frames[t] = picture
        landmarks[t] = _landmarks(mx, my, gap)
    return frames, landmarks


def _landmarks(mx: float, my: float, gap: float) -> np.ndarray:
    points = np.tile(np.array([mx, my], np.float32), (68, 1))
    points[:17, 0] += np.linspace(-36, 36, 17)
    points[:17, 1] += 30
    for first, side in ((36, -1), (42, 1)):
        points[first : first + 6] += np.array([[-5, 0], [-2, -3], [2, -3], [5, 0], [2, 3], [-2, 3]])
        points[first : first + 6] += (14 * side, -12)
    angles = np.linspace(np.pi, -np.pi, 13)[:12]
    points[48:60] += np.stack([14 * np.cos(angles), 24 - (gap / 2 + 2) * np.sin(angles)], 1)
    for i, (dx, dy) in enumerate([(-11, 0), (-5, -1), (0, -1), (5, -1), (11, 0), (5, 1), (0, 1), (-5, 1)]):
        points[60 + i] += (dx, 24 + dy * gap / 2)
    return points


def write_encoder(path: Path) -> None:
    """A random speech encoder of Whisper tiny's shape."""
    torch.manual_seed(0)
    encoder = WhisperEncoder(80, 1500, 384, 4)
    state = {n: t.half().contiguous() for n, t in encoder.state_dict().items() if n != "hann"}
    save_file(state, path)
