"""Render the fixed evaluation split: `python -m liveavatar.training.corpus.evaluation_pack --assets DIR --speech DIR`.

`PLAN` is the split: avatars from seeds that neither training nor its own held-out clips use, all held-out voices, both
orientations, stretches of speech with a pause in them. `--plan validation --out DIR` renders six clips of other people
and other speech for model selection (`liveavatar bench quality --split DIR`): a model selected on the evaluation split
would score too well there. Clips already in the folder are not rendered again, so an interrupted run can be resumed.
About 4 minutes of one core a clip, seconds on a GPU.
"""

import argparse
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from liveavatar.errors import InputError
from liveavatar.quality.split import FOLDER, INDEX, ClipInfo, load_split, write_clip, write_index
from liveavatar.training.corpus.clips import (
    BLOCK_FRAMES,
    CPU_BATCH,
    EVAL_SEED,
    GPU_BATCH,
    SIZES,
    ClipPlan,
    ClipRenderer,
    CorpusSettings,
)
from liveavatar.training.corpus.head.geometry import HeadAssets
from liveavatar.training.corpus.layout import eye_tracks
from liveavatar.training.corpus.speech.tracks import Track, load_tracks

logger = logging.getLogger(__name__)

SEED = EVAL_SEED + 10_000  # the held-out clips of training runs start at EVAL_SEED
BLOCKS = 16  # 7.68 s


@dataclass(frozen=True, slots=True)
class EvaluationClip:
    """Person, orientation and stretch of speech of one clip."""

    seed: int
    orientation: str
    track: str
    block: int


PLAN: tuple[EvaluationClip, ...] = (
    EvaluationClip(SEED, "portrait", "eval_001", 4),
    EvaluationClip(SEED + 1, "portrait", "eval_002", 0),
    EvaluationClip(SEED + 2, "landscape", "eval_003", 92),
    EvaluationClip(SEED + 3, "portrait", "eval_004", 68),
    EvaluationClip(SEED + 4, "portrait", "eval_049", 40),
    EvaluationClip(SEED + 5, "landscape", "eval_050", 84),
    EvaluationClip(SEED + 6, "portrait", "eval_001", 100),
    EvaluationClip(SEED + 7, "landscape", "eval_002", 60),
)
VALIDATION: tuple[EvaluationClip, ...] = (
    EvaluationClip(SEED + 100, "portrait", "eval_001", 60),
    EvaluationClip(SEED + 101, "landscape", "eval_002", 30),
    EvaluationClip(SEED + 102, "portrait", "eval_003", 20),
    EvaluationClip(SEED + 103, "portrait", "eval_004", 20),
    EvaluationClip(SEED + 104, "landscape", "eval_049", 80),
    EvaluationClip(SEED + 105, "portrait", "eval_050", 30),
)
PLANS = {"evaluation": PLAN, "validation": VALIDATION}


def pack(folder: Path, renderer: ClipRenderer, plan: tuple[EvaluationClip, ...] = PLAN, blocks: int = BLOCKS) -> int:
    """Render the missing clips of a plan, rewriting the index after every clip; return the number of new clips."""
    present = {c.info.name: c.info for c in load_split(folder)} if (folder / INDEX).is_file() else {}
    infos: list[ClipInfo] = []
    num_rendered = 0
    for number, entry in enumerate(plan):
        name = f"{number:02d}"
        info = present.get(name)
        if info is None or (info.seed, info.block, info.num_frames) != (entry.seed, entry.block, blocks * BLOCK_FRAMES):
            begun = time.monotonic()
            info = _pack_clip(folder, name, entry, renderer, blocks * BLOCK_FRAMES)
            num_rendered += 1
            logger.info("clip %s: %.0f s, film %.1f dB", name, time.monotonic() - begun, info.film_psnr)
        infos.append(info)
        write_index(folder, infos)
    return num_rendered


def _pack_clip(folder: Path, name: str, entry: EvaluationClip, renderer: ClipRenderer, num_frames: int) -> ClipInfo:
    number, track = _track(renderer.tracks, entry.track)
    frames, labels = renderer.clip(
        ClipPlan(seed=entry.seed, orientation=entry.orientation, track=number, block=entry.block, num_frames=num_frames)
    )
    info = ClipInfo(
        name=name, seed=entry.seed, orientation=entry.orientation, track=entry.track, voice=track.info.voice,
        block=entry.block, num_frames=num_frames, caption=labels.caption, film_psnr=0.0,
    )  # fmt: skip
    eyes = eye_tracks(labels.expression, renderer.assets.expression_names, labels.head, labels.gaze)
    truth = {"landmarks": labels.landmarks, "head": labels.head, "expression": labels.expression, "eyes": eyes}
    psnr = write_clip(folder, info, frames, track.clip(entry.block, num_frames)[0], truth)
    return replace(info, film_psnr=round(psnr, 2))


def _track(tracks: list[Track], track_id: str) -> tuple[int, Track]:
    for number, track in enumerate(tracks):
        if track.info.id == track_id:
            return number, track
    raise InputError(
        f"the speech folder holds no track {track_id}; make it with `liveavatar.training.corpus.speech.synthesis`"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--plan", choices=tuple(PLANS), default="evaluation")
    parser.add_argument("--out", type=Path, help="data/evaluation when empty, which only the evaluation plan may")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.out is None and args.plan != "evaluation":
        parser.error(f"say where to write the {args.plan} clips: --out DIR")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_grad_enabled(False)
    settings = CorpusSettings(sizes=SIZES, supersample=2, batch=CPU_BATCH if args.device == "cpu" else GPU_BATCH)
    renderer = ClipRenderer(HeadAssets(args.assets, args.device), load_tracks(args.speech, "eval"), settings)
    pack(args.out or FOLDER, renderer, PLANS[args.plan])


if __name__ == "__main__":
    main()
