"""Encoding of videos of talking people as clips to distil the 14B on.

`python -m liveavatar.training.sharded.encode --model live-avatar-14b --videos DIR --out CLIPS` encodes each video of a
folder with the model's own autoencoder, speech encoder and text encoder; `NAME.txt` beside `NAME.mp4` is its prompt.
Clips that are there already are skipped, so the command goes on where it stopped; under torchrun, ranks share the
videos. The format is that of `windows.py`.

Shapes: T frames, H/W pixels, b blocks.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from liveavatar.audio.encoders import encoder_kind
from liveavatar.checkpoints.directory import resolve_model_dir
from liveavatar.checkpoints.load import load_model
from liveavatar.engine.prompt_encoder import prompt_encoder
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.files import replacing
from liveavatar.media.ffmpeg import Frame, at_fps, read_frames, read_video_audio
from liveavatar.timing import BLOCK_FRAMES, FPS, SAMPLE_RATE
from liveavatar.training import runtime
from liveavatar.training.sharded.options import pixels

log = logging.getLogger(__name__)

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@dataclass(frozen=True, slots=True)
class Footage:
    """Pictures of a video at 25 fps and the sound beside them."""

    frames: Tensor  # [3, 1 + 12 b, H, W] in -1..1
    audio: np.ndarray  # float32 mono, 16 kHz


class ClipEncoder:
    """Encoder of footage with the networks of a model directory."""

    def __init__(self, model_dir: Path, device: torch.device) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = load_model(model_dir, device, dtype, parts=("vae",))
        self.vae, self.device, self.dtype = model.vae, device, dtype
        self.speech = encoder_kind(model.config.speech).load(model.config.speech, model_dir)
        self.prompt_rows = prompt_encoder(model, model_dir, device)

    @torch.no_grad()
    def encode(self, footage: Footage, prompt: str) -> dict[str, Tensor]:
        """Encode footage as the tensors of a clip; the first picture is the portrait."""
        video = footage.frames[None].to(self.device, self.dtype)
        frames = video.shape[2] - 1
        features = self.speech.features(footage.audio)[:, :, 1 : 1 + frames]
        return {
            "latents": self.vae.encode(video)[0, :, 1:],
            "reference": self.vae.encode(video[:, :, :1])[0],
            "features": F.pad(features, (0, frames - features.shape[2]), mode="replicate"),
            "text": self.prompt_rows(prompt)[0],
        }


def read_footage(path: Path, size: tuple[int, int], seconds: float) -> Footage:
    """Read the beginning of a video at 25 fps, its middle cut out at a size.

    Args:
        path: of the video.
        size: width and height in pixels.
        seconds: at most; whole blocks are kept.

    Raises:
        InputError: it cannot be read, has no sound, or is shorter than a block.
    """
    frames = [fitted(rgb, size) for rgb in at_rate(read_frames(path), round(seconds * FPS) + 1)]
    blocks = (len(frames) - 1) // BLOCK_FRAMES
    if not blocks:
        raise InputError(f"{path} has {len(frames)} frames at {FPS} fps; a clip needs {BLOCK_FRAMES + 1} or more")
    frames = frames[: 1 + BLOCK_FRAMES * blocks]
    audio = read_video_audio(path)[: len(frames) * SAMPLE_RATE // FPS]
    return Footage(torch.stack(frames, dim=1), audio)


def at_rate(frames: Iterator[Frame], most: int) -> Iterator[np.ndarray]:
    """Repeat or leave out pictures so that they follow each other at 25 fps; `most` at most."""
    return (frame.rgb for frame in islice(at_fps(frames), most))


def fitted(rgb: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Scale a picture [H, W, 3] to cover a size (width, height) and cut out its middle: [3, H, W] in -1..1."""
    width, height = size
    picture = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float()
    scale = max(width / picture.shape[3], height / picture.shape[2])
    inner = [max(n, round(scale * m)) for n, m in ((height, picture.shape[2]), (width, picture.shape[3]))]
    picture = F.interpolate(picture, inner, mode="bicubic", antialias=True, align_corners=False)[0]
    top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
    return (picture[:, top : top + height, left : left + width] / 127.5 - 1).clamp(-1, 1)


def encode_stage(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Encode this rank's share of the videos; one that cannot be used is named and left out.

    Raises:
        InputError: there are no videos, or none that can be used.
    """
    videos = sorted(path for path in args.videos.glob("*") if path.suffix.lower() in VIDEOS)
    if not videos:
        raise InputError(f"--videos {args.videos} holds none of {', '.join(VIDEOS)}")
    encoder = ClipEncoder(resolve_model_dir(args.model), rank.device)
    args.out.mkdir(parents=True, exist_ok=True)
    for path in videos[rank.rank :: rank.world]:
        clip = args.out / f"{path.stem}.safetensors"
        if clip.is_file():
            continue
        try:
            footage = read_footage(path, pixels(args.size), args.seconds)
        except InputError as e:
            log.warning("left out: %s", e)
            continue
        prompt = path.with_suffix(".txt")
        tensors = encoder.encode(footage, prompt.read_text().strip() if prompt.is_file() else "")
        with replacing(clip) as temporary:
            save_file({n: t.to("cpu", torch.bfloat16).contiguous() for n, t in tensors.items()}, temporary)
        log.info("%s: %d blocks", clip, footage.frames.shape[1] // BLOCK_FRAMES)
    if rank.world == 1 and not any(args.out.glob("*.safetensors")):
        raise InputError(f"no video of {args.videos} can be used; see the lines above")


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = argparse.ArgumentParser(description="encode videos of talking people as clips to distil the 14B on")
    options.add_argument("--model", required=True, help="model directory or preset, with all its encoders")
    options.add_argument("--videos", type=Path, required=True, help="folder of videos; NAME.txt is a prompt")
    options.add_argument("--out", type=Path, required=True, help="folder of the clips")
    options.add_argument("--size", default="704*384", help="width*height in pixels; the middle is cut out")
    options.add_argument("--seconds", type=float, default=20.0, help="of a video at most")
    options.add_argument("--seed", type=int, default=0)
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    try:
        runtime.run_stage(parser(), encode_stage, argv)
    except LiveAvatarError as e:
        log.error("%s", e)
        raise SystemExit(e.exit_code) from e


if __name__ == "__main__":
    main()
