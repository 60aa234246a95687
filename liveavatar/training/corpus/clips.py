"""Render the clips of the corpus: one process per call, any number of processes in parallel.

`python -m liveavatar.training.corpus.clips --assets DIR --speech DIR --out DIR --rank R --world W --device cuda:0
--seconds N` fills `portrait_R.npy` and `landscape_R.npy` (see `layout.py`) until the time or the capacity is
used up; `--split eval` renders the held-out avatars with held-out tracks. A clip depends on its seed, the assets
and the speech tracks only, not on rank or time.

Needs torch, numpy, scipy and soundfile; no synthesiser.
"""

import argparse
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from liveavatar.training.corpus.captions import caption
from liveavatar.training.corpus.head.avatar import Avatar
from liveavatar.training.corpus.head.geometry import Camera, HeadAssets
from liveavatar.training.corpus.head.motion import (
    Motion,
    Style,
    draw_style,
    photo_motion,
    resting_pose,
    speaking_motion,
    spoken_photo,
    turned_rest,
    turning,
)
from liveavatar.training.corpus.layout import SPEEDS, ClipFile, ClipLabels, ClipWriter, OtherPhoto, list_clips
from liveavatar.training.corpus.render import fuse
from liveavatar.training.corpus.render.framing import draw_camera, eye_centres
from liveavatar.training.corpus.render.photos import Scenery, draw_held_out_photo, draw_other_photo, draw_scenery
from liveavatar.training.corpus.render.shading import Shot, render
from liveavatar.training.corpus.speech.tracks import Track, load_tracks
from liveavatar.training.corpus.speech.visemes import shape_matrix

__all__ = ["SPEEDS", "ClipFile", "list_clips"]

logger = logging.getLogger(__name__)

SIZES = {"portrait": (384, 256), "landscape": (256, 384)}  # height, width
TINY_SIZES = {"portrait": (256, 128), "landscape": (128, 256)}  # latents need sides of whole 128 pixels
BLOCK_FRAMES = 12
# Seeds of the splits never meet: a training process owns a stretch of 100 000.
TRAIN_SEED, SEEDS_PER_RANK, EVAL_SEED, SAMPLE_SEED = 1_000, 100_000, 900_000_000, 800_000_000
LANDSCAPE_TURNS = (2, 5, 8)  # of ten clips
FRAMES = {"train": 120, "eval": 240}
CLIPS = {"train": 1200, "eval": 6}  # capacity of one process
CPU_BATCH, GPU_BATCH, GPU_BYTES_A_FRAME = 6, 120, 0.25e9  # frames drawn at once, and what one needs on a GPU
GPU_SHARE = 0.9  # of the memory for all processes of a GPU
PHOTO_FRAMES = 24  # of another stretch of speech, of which one is a photo's face
TURNING = 0.75  # share of the turned clips whose head turns; the others' only sways, before a photo that may be turned
SAME_MOOD = 0.5  # share of those photos that show the clip's mood


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipPlan:
    """Seed, shape and speech of one clip; all other choices follow from the seed."""

    seed: int
    orientation: str
    track: int
    block: int
    num_frames: int

    @property
    def held_out(self) -> bool:
        """True for clips that no training uses."""
        return self.seed >= SAMPLE_SEED


_Shown = tuple[Motion, Scenery]


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusSettings:
    """Picture size, supersampling and batch size of a renderer."""

    sizes: dict[str, tuple[int, int]]  # height and width per orientation
    supersample: int  # samples per pixel along each side
    batch: int  # frames drawn at once
    turned: float = 0.0  # share of clips whose photo may be turned away, most of which turn the head far, too
    spoken_photos: float = 0.0  # share of clips whose photos show the person while speaking; the others': at rest


class ClipRenderer:
    """Renderer of clip plans: frames and labels."""

    def __init__(self, assets: HeadAssets, tracks: list[Track], settings: CorpusSettings) -> None:
        self.assets, self.tracks, self.settings = assets, tracks, settings
        self._batch = settings.batch
        self._matrix = shape_matrix(assets.expression_names)

    def plan(self, split: str, number: int, rank: int, world: int, num_frames: int) -> ClipPlan:
        """Plan the `number`-th clip of a process.

        Training clips draw a track (by its length) and a block; held-out clips take the tracks in turn.
        """
        blocks = num_frames // BLOCK_FRAMES
        room = np.array([max(0, t.num_blocks - blocks) for t in self.tracks])
        if split == "train":
            seed, turn = TRAIN_SEED + rank * SEEDS_PER_RANK + number, number
            rng = np.random.default_rng([seed, 2])
            share = np.array([t.num_blocks for t in self.tracks], float)
            track = int(rng.choice(len(self.tracks), p=share / share.sum()))
            block = int(rng.integers(room[track] + 1))
        else:
            turn = rank + number * world
            seed, track = EVAL_SEED + turn, turn % len(self.tracks)
            block = (turn // len(self.tracks)) * blocks % (room[track] + 1)
        orientation = "landscape" if turn % 10 in LANDSCAPE_TURNS else "portrait"
        return ClipPlan(seed=seed, orientation=orientation, track=track, block=int(block), num_frames=num_frames)

    def clip(self, plan: ClipPlan) -> tuple[np.ndarray, ClipLabels]:
        """Render a clip: frames uint8 [T + 1, H, W, 3], the photo last, and labels.

        The labels of a training clip hold the other photo.
        """
        rng = np.random.default_rng([plan.seed, 1])
        other_rng = np.random.default_rng([plan.seed, 4])  # of what depends on the shares
        turned, spoken = (other_rng.random(2) < (self.settings.turned, self.settings.spoken_photos)).tolist()
        avatar = Avatar(self.assets, plan.seed)
        size = height, width = self.settings.sizes[plan.orientation]
        names, rest = self.assets.expression_names, resting_pose(rng)
        if turned:
            rest = turned_rest(other_rng)
        photo = photo_motion(names, rest, rng)
        vertices, _ = _posed(avatar, photo, slice(0, 1))
        camera = draw_camera(rng, eye_centres(self.assets, vertices[0]), height, width)
        scenery = draw_scenery(rng, size)
        # Drawn for training clips too: later random draws must not depend on the split.
        photo_scenery = draw_held_out_photo(rng, scenery, size)
        style = draw_style(rng)
        audio, events = self.tracks[plan.track].clip(plan.block, plan.num_frames)
        turns = turning(plan.num_frames, rest, other_rng) if turned and other_rng.random() < TURNING else None
        speaking = speaking_motion(events, audio, names, self._matrix, style, rest, rng, turns)
        if spoken:
            photo = spoken_photo(names, photo, self._another_stretch(plan, style, other_rng), other_rng)

        def words(photo_as: Scenery, rng: np.random.Generator) -> str:
            seen, must_name = (scenery.light.words, scenery.place.words), scenery.differs(photo_as)
            return caption(avatar.traits, style.mood, style.energy, *seen, must_name, rng)

        shown = [(speaking, scenery), (photo, photo_scenery if plan.held_out else scenery)]
        clip_words, other_words = words(shown[1][1], rng), ""
        if not plan.held_out:
            photo_rng = np.random.default_rng([plan.seed, 3])
            shown.append((photo, draw_other_photo(photo_rng, scenery, size)))
            other_words = words(shown[2][1], photo_rng)
        frames, landmarks = self._draw(avatar, camera, shown)
        count = plan.num_frames + 1
        labels = ClipLabels(
            landmarks=landmarks[:count], expression=np.concatenate([speaking.expression, photo.expression]),
            head=np.concatenate([speaking.head, photo.head]), gaze=np.concatenate([speaking.gaze, photo.gaze]),
            track=plan.track, block=plan.block, seed=plan.seed, caption=clip_words,
            other=None if plan.held_out else OtherPhoto(frames[count], other_words),
        )  # fmt: skip
        return frames[:count], labels

    def _another_stretch(self, plan: ClipPlan, style: Style, rng: np.random.Generator) -> Motion:
        """Draw the motion of a clip's person in another part of its track, in half of the cases in another mood."""
        track = self.tracks[plan.track]
        block = int(rng.integers(max(1, track.num_blocks - PHOTO_FRAMES // BLOCK_FRAMES + 1)))
        audio, events = track.clip(block, PHOTO_FRAMES)
        mood = style if rng.random() < SAME_MOOD else draw_style(rng)
        return speaking_motion(events, audio, self.assets.expression_names, self._matrix, mood, np.zeros(3), rng)

    def _draw(self, avatar: Avatar, camera: Camera, shown: list[_Shown]) -> tuple[np.ndarray, np.ndarray]:
        """Render a clip and then its photos: frames and landmarks; halves the batch when memory runs out."""
        while True:
            try:
                return self._draw_batches(avatar, camera, shown)
            except torch.OutOfMemoryError:
                if self._batch < 2 * BLOCK_FRAMES:
                    raise
                self._batch //= 2
                logger.warning("out of GPU memory: from now on %d frames are drawn at once", self._batch)
            torch.cuda.empty_cache()

    def _draw_batches(self, avatar: Avatar, camera: Camera, shown: list[_Shown]) -> tuple[np.ndarray, np.ndarray]:
        (speaking, scenery), *photos = shown
        count = len(speaking.head)
        # Page-locked, so that copies from the GPU need no detour.
        pinned = self.assets.device.type == "cuda"
        shape = (count + len(photos), camera.height, camera.width, 3)
        frames = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        landmarks = torch.empty(len(frames), 68, 2)
        for start in range(0, count, self._batch):
            rows = slice(start, min(count, start + self._batch))
            shots = [_shot(avatar, speaking, rows, scenery)]
            if start == 0:  # the photos ride along with the first batch
                shots += [_shot(avatar, motion, slice(0, 1), s) for motion, s in photos]
            images = render(shots, camera, self.settings.supersample)
            points = [camera.project(s.vertices[:, self.assets.landmarks68])[..., :2] for s in shots]
            size = rows.stop - rows.start
            frames[rows], landmarks[rows] = images[:size], points[0]
            if start == 0:
                frames[count:], landmarks[count:] = images[size:], torch.cat(points[1:])
        return frames.numpy(), landmarks.numpy()


def _shot(avatar: Avatar, motion: Motion, rows: slice, scenery: Scenery) -> Shot:
    return Shot(avatar, *_posed(avatar, motion, rows), scenery.light, scenery.place)


def _posed(avatar: Avatar, motion: Motion, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    curves = (motion.expression[rows], motion.head[rows], motion.gaze[rows])
    return avatar.pose(*(torch.as_tensor(c, dtype=torch.float32, device=avatar.device) for c in curves))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipJob:
    """Share of the corpus that one process renders."""

    out: Path
    split: str
    rank: int
    world: int
    num_clips: int
    num_frames: int
    seconds: float  # no clip is begun after this much time
    first: int = 0  # number of the first clip: another stretch of the endless corpus


def render_clips(renderer: ClipRenderer, job: ClipJob) -> int:
    """Render clips until the time or the number is used up; return the number of clips."""
    begun = time.monotonic()
    numbers = range(job.first, job.first + job.num_clips)
    plans = [renderer.plan(job.split, k, job.rank, job.world, job.num_frames) for k in numbers]
    prefix = "eval_" if job.split == "eval" else ""
    names = renderer.assets.expression_names
    writers = {
        o: ClipWriter.open(
            job.out / f"{prefix}{o}_{job.rank}.npy", (job.num_frames + 1, *size, 3),
            max(1, sum(p.orientation == o for p in plans)), names, others=job.split == "train",
        )
        for o, size in renderer.settings.sizes.items()
    }  # fmt: skip
    num_rendered = 0
    written: Future[None] | None = None
    with ThreadPoolExecutor(1) as pool:  # a clip goes to disk while the next one is drawn
        for plan in plans:
            if time.monotonic() - begun > job.seconds:
                break
            clip = renderer.clip(plan)
            if written:
                written.result()
            written = pool.submit(writers[plan.orientation].add, *clip)
            num_rendered += 1
        if written:
            written.result()
    for writer in writers.values():
        writer.write_labels()
    spent = time.monotonic() - begun
    speed = num_rendered * (job.num_frames + 1) / spent
    logger.info("rank %d: %d %s clips, %.1f frames/s", job.rank, num_rendered, job.split, speed)
    return num_rendered


def _gpu_batch(share: float) -> int:
    """Count the frames that fit into a process's share of the GPU's memory."""
    room = share * torch.cuda.mem_get_info()[1] / GPU_BYTES_A_FRAME
    return max(BLOCK_FRAMES, min(GPU_BATCH, int(room)))


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("assets", "speech", "out"):
        options.add_argument(f"--{name}", type=Path, required=True)
    options.add_argument("--split", choices=("train", "eval"), default="train")
    options.add_argument("--rank", type=int, default=0)
    options.add_argument("--world", type=int, default=1)
    options.add_argument("--device", default="cpu")
    options.add_argument("--seconds", type=float, default=1e9)
    options.add_argument("--num_clips", type=int, help="of this process; 1200 for train, 6 for eval")
    options.add_argument("--first", type=int, default=0, help="number of the first clip: later clips show new people")
    options.add_argument("--frames", type=int, help="of a clip, a multiple of 12; 120 for train, 240 for eval")
    options.add_argument("--turned", type=float, default=0.0, help="share with far turns of head or photo")
    options.add_argument(
        "--spoken_photos", type=float, default=0.0, help="share of clips whose photos show the person while speaking"
    )
    options.add_argument("--processes", type=int, default=2, help="that share this one's GPU and its memory")
    options.add_argument("--batch", type=int, help="frames drawn at once; 120 on a GPU, 6 on a CPU")
    options.add_argument("--eager", action="store_true", help="compile nothing on the GPU")
    options.add_argument("--tiny", action="store_true", help="a quarter of the size, no supersampling: for trials")
    return options


def main() -> None:
    """Run the command line."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_grad_enabled(False)
    torch.backends.cudnn.deterministic = True
    on_gpu = args.device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(args.device)
        # Without a limit the cached memory of one process starves the other.
        torch.cuda.set_per_process_memory_fraction(GPU_SHARE / args.processes)
    tracks = load_tracks(args.speech, args.split, SPEEDS if args.split == "train" else (1.0,))
    settings = CorpusSettings(
        sizes=TINY_SIZES if args.tiny else SIZES, supersample=1 if args.tiny else 2,
        batch=args.batch or (_gpu_batch(GPU_SHARE / args.processes) if on_gpu else CPU_BATCH),
        turned=args.turned, spoken_photos=args.spoken_photos,
    )  # fmt: skip
    renderer = ClipRenderer(HeadAssets(args.assets, args.device), tracks, settings)
    job = ClipJob(
        out=args.out, split=args.split, rank=args.rank, world=args.world, seconds=args.seconds,
        num_clips=args.num_clips or CLIPS[args.split], num_frames=args.frames or FRAMES[args.split],
        first=args.first,
    )  # fmt: skip
    with fuse.compiling("inductor" if on_gpu and not args.eager else None):
        render_clips(renderer, job)


if __name__ == "__main__":
    main()
