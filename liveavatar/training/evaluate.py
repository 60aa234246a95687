"""Held-out measures of generated video: lip sync, sharpness, motion, steps at block edges.

`python -m liveavatar.training.evaluate --data DIR --run RUN --out OUT` streams the held-out clips with the teacher and
every student, at several step counts, and writes `evaluation.json` and contact sheets. `judge_video` is the core: it
needs videos, the true video and landmarks, and a reader of face values.

Shapes: B clips, T frames.
"""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import ModelConfig, shifted_sigmas
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.quality import reference
from liveavatar.quality.curves import best_lag, correlations
from liveavatar.quality.reference import region_weights, to_video
from liveavatar.training import runtime
from liveavatar.training.autoencoder import autoencoder_measures
from liveavatar.training.batch import Window
from liveavatar.training.data import Clips, load_clips
from liveavatar.training.features import load_bank
from liveavatar.training.flow import AvatarNet, rollout
from liveavatar.training.latent_set import load_latents
from liveavatar.training.latents import cut_window
from liveavatar.training.probe import HEAD, PLACE, Probe, face_square, face_values, read_video

log = logging.getLogger(__name__)

CLOSED_SHARE = 0.15  # quantile of true openness up to which the mouth counts as closed
SHEET_FRAMES = 12
POSED = "+pose"  # suffix of rows conditioned on the true head pose
FaceReader = Callable[[Tensor, Tensor], Tensor]  # (video, photo landmarks) -> values [B, T, 8], see `probe.VALUES`


@dataclass(frozen=True, slots=True)
class Truth:
    """Held-out clips of one orientation with landmarks and head angles."""

    video: Tensor  # [B, 3, T, H, W]
    photo: Tensor  # [B, 3, 1, H, W]
    landmarks: Tensor  # [B, T, 68, 2]
    photo_landmarks: Tensor  # [B, 68, 2]
    head: Tensor  # [B, T, 3] yaw, pitch, roll, radians

    @property
    def values(self) -> Tensor:
        """True face values [B, T, 8], in the order of `probe.VALUES`."""
        frames = zip(self.landmarks.unbind(1), self.head.unbind(1), strict=True)
        square = face_square(self.photo_landmarks)
        return torch.stack([face_values(landmarks, head, square) for landmarks, head in frames], 1)


def truth_of(clips: Clips, limit: int, num_frames: int) -> Truth:
    """Take the first `limit` clips, cut to `num_frames`."""
    part = slice(0, limit)
    return Truth(
        to_video(clips.frames[part, :num_frames]),
        to_video(clips.frames[part, -1:]),
        clips.landmarks[part, :num_frames],
        clips.landmarks[part, -1],
        clips.head[part, :num_frames],
    )


def judge_video(video: Tensor, truth: Truth, reader: FaceReader) -> dict[str, float]:
    """Measure generated clips against the true ones of the same speech.

    Correlations are over time, averaged over clips. `*_ratio` compare spreads, 1 = equal. `pose_*` compare the head's
    three angles; the row of the truth shows the reader's own error. `texture_psnr` compares the face pixel by pixel,
    which is meaningful only with the true head pose as a condition.
    """
    generated, true = reader(video, truth.photo_landmarks), truth.values
    open_generated, open_true = generated[..., 0], true[..., 0]
    curves, true_curves = generated.cpu().numpy(), true.cpu().numpy()  # [B, T, V]
    by_clip = correlations(curves[..., 0], true_curves[..., 0])
    head = [c[..., HEAD].transpose(0, 2, 1).reshape(-1, c.shape[1]) for c in (curves, true_curves)]
    closed = open_true <= open_true.quantile(CLOSED_SHARE)
    face = region_weights(truth.landmarks[:, :1], (video.shape[-2], video.shape[-1]), 1.0, 1.0, 0.0).expand(
        -1, video.shape[2], -1, -1
    )
    drift = reference.colour_drift(video, truth.photo)
    return {
        "openness_corr": float(by_clip.mean()),
        "openness_corr_min": float(by_clip.min()),
        "width_corr": float(correlations(curves[..., 1], true_curves[..., 1]).mean()),
        "openness_ratio": float((open_generated.std(1) / open_true.std(1).clamp(min=1e-6)).mean()),
        "openness_error": float((open_generated - open_true).abs().mean()),
        "closed_gap": float(open_generated[closed].mean()),
        "closed_gap_true": float(open_true[closed].mean()),
        "lag_frames": float(best_lag(curves[..., 0], true_curves[..., 0])),
        "eyes_ratio": float(generated[..., 2].std(1).mean() / true[..., 2].std(1).mean().clamp(min=1e-6)),
        "head_ratio": float(generated[..., PLACE].std(1).mean() / true[..., PLACE].std(1).mean().clamp(min=1e-6)),
        "pose_error_deg": float((generated[..., HEAD] - true[..., HEAD]).abs().mean().rad2deg()),
        "pose_corr": float(correlations(*head).mean()),
        "texture_psnr": reference.psnr(video, truth.video, reference.face_ellipse(truth.landmarks, video.shape[-2:])),
        "energy": reference.energy_kept(video, truth.video),
        "energy_face": _energy_of_mean(video, truth.video, face),
        "edge_jump": reference.mean_edge_jump(video),
        "edge_jump_true": reference.mean_edge_jump(truth.video),
        "motion_ratio": float(reference.frame_steps(video).mean() / reference.frame_steps(truth.video).mean()),
        "drift_start": drift[0],
        "drift_end": drift[2],
    }


def _energy_of_mean(video: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Compute the ratio of mean energies: poses differ, so frames cannot be compared one by one."""
    generated, true = reference.gradient_energy(video, mask), reference.gradient_energy(truth, mask)
    return float((generated.mean(1) / true.mean(1).clamp(min=1e-9)).mean())


def score(row: dict[str, float]) -> float:
    """Compute the score for choosing weights.

    Lip sync weighs most, then amplitude, sharpness, head and lid motion, and steps at block edges.
    """
    return (
        row["openness_corr"]
        + 0.5 * row["width_corr"]
        - 0.3 * abs(1 - row["openness_ratio"])
        - 0.2 * abs(1 - min(row["energy_face"], 1.0))
        - 0.1 * abs(1 - row["head_ratio"])
        - 0.1 * abs(1 - row["eyes_ratio"])
        - 0.1 * max(0.0, row["edge_jump"] / max(row["edge_jump_true"], 1e-6) - 1.1)
        - 2.0 * max(0.0, row["drift_end"] - row["drift_start"])
    )


class Judge:
    """Evaluator of network weights: held-out clips, their conditions, the decoder and the probe."""

    def __init__(self, args: argparse.Namespace, cfg: ModelConfig, rank: runtime.TrainRank) -> None:
        self.cfg, self.rank, device = cfg, rank, rank.device
        self.vae = runtime.channels_last(CompactVAE(cfg.vae).to(device)).eval()
        raw = runtime.load_checkpoint(runtime.autoencoder_file(args.run), device)["average"]
        self.vae.load_state_dict(raw)
        self.probe = Probe().to(device).eval()
        self.probe.load_state_dict(runtime.load_checkpoint(args.run / "probe.pt", device))
        self.clips = load_clips(args.data, "eval", device)
        bank = load_bank(args.run, "eval", cfg.dit.audio_history_frames, device)
        self.windows: list[Window] = []
        self.truths: list[Truth] = []
        for clips, latents in zip(self.clips, load_latents(args.run, "eval", device), strict=True):
            count = min(args.limit, len(clips.frames))
            num_blocks = min(args.blocks, latents.latents.shape[2] // 3)
            index = torch.arange(count, device=device)
            self.windows.append(cut_window(latents, bank, index, torch.zeros_like(index), num_blocks))
            self.truths.append(truth_of(clips, count, 12 * num_blocks))

    def reader(self, video: Tensor, photo_landmarks: Tensor) -> Tensor:
        """Read face values with the probe."""
        with self.rank.autocast():
            return read_video(self.probe, video, photo_landmarks)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to video, clip by clip."""
        with self.rank.autocast():
            return torch.cat([self.vae.decode(z[None].float()).float().clamp(-1, 1) for z in latents])

    @torch.no_grad()
    def videos(self, net: AvatarNet, steps: int, posed: bool = False, seed: int = 420) -> list[Tensor]:
        """Stream all held-out clips, with free heads or conditioned on the true pose."""
        generated = []
        for window in self.windows if posed else [w.with_free_head() for w in self.windows]:
            generator = torch.Generator(self.rank.device).manual_seed(seed)
            noise = torch.randn(window.latents.shape, device=self.rank.device, generator=generator)
            sigmas = self.cfg.sigmas.get(steps) or shifted_sigmas(steps)
            with self.rank.autocast():
                latents = rollout(net, window, sigmas, noise)
            generated.append(self.decode(latents))
        return generated

    def judge(self, videos: list[Tensor]) -> dict[str, float]:
        """Measure videos of all orientations; return the averages and the score."""
        rows = [judge_video(v, t, self.reader) for v, t in zip(videos, self.truths, strict=True)]
        mean = {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}
        return mean | {"score": score(mean)}


def load_candidates(run: Path, cfg: ModelConfig, device: torch.device) -> dict[str, AvatarNet]:
    """Load teacher and students of a run, by name."""
    weights = {}
    if (run / "teacher.pt").is_file():
        weights["teacher"] = runtime.load_checkpoint(run / "teacher.pt", device)["average"]
    if (run / "student.pt").is_file():
        weights |= runtime.load_checkpoint(run / "student.pt", device)
    nets = {}
    for name, state in weights.items():
        nets[name] = AvatarNet(cfg).to(device).eval().requires_grad_(False)
        nets[name].load_state_dict(state)
    return nets


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all weights of a run; write `evaluation.json` and contact sheets into `args.out`."""
    rank = runtime.start()
    cfg = read_config(args.run)
    judge = Judge(args, cfg, rank)
    args.out.mkdir(parents=True, exist_ok=True)
    rebuilt = [judge.decode(w.latents) for w in judge.windows]
    rows: dict[str, dict[str, float]] = {
        "truth": judge.judge([t.video for t in judge.truths]),
        "autoencoder": judge.judge(rebuilt) | autoencoder_measures(judge.vae, judge.clips, rank),
    }
    sheets = {"autoencoder": rebuilt}
    for name, net in load_candidates(args.run, cfg, rank.device).items():
        counts = [*args.steps, 20] if name == "teacher" else args.steps
        for steps in counts:
            videos = judge.videos(net, steps)
            rows[f"{name}@{steps}"] = judge.judge(videos)
            log.info("%s@%d: %s", name, steps, rows[f"{name}@{steps}"])
            if steps == 4:
                sheets[name] = videos
                posed = judge.videos(net, steps, posed=True)
                rows[f"{name}@4{POSED}"] = judge.judge(posed)
                log.info("%s@4%s: %s", name, POSED, rows[f"{name}@4{POSED}"])
                sheets[name + POSED] = posed
    at_four = {n: r["score"] for n, r in rows.items() if n.endswith("@4")}
    chosen = max(at_four, key=lambda n: at_four[n]).removesuffix("@4") if at_four else ""
    result = {"chosen": chosen, "rows": rows}
    (args.out / "evaluation.json").write_text(json.dumps(result, indent=1))
    write_sheets(args.out, judge, sheets)
    return result


def write_sheets(out: Path, judge: Judge, videos: dict[str, list[Tensor]]) -> None:
    """Write contact sheets of up to three clips per orientation: truth, then candidates; and of the mouths alone."""
    for i, truth in enumerate(judge.truths):
        start = min(60, max(0, truth.video.shape[2] - 3 * SHEET_FRAMES))
        times = list(range(start, truth.video.shape[2], 3))[:SHEET_FRAMES]
        rows, mouths = [], []
        for clip in range(min(3, len(truth.video))):
            for video in (truth.video, *(v[i] for v in videos.values())):
                rows.append(video[clip, :, times, ::2, ::2])
            centre = truth.photo_landmarks[clip, 48:68].mean(0)
            for video in (truth.video, *(v[i] for v in videos.values())):
                mouths.append(_around(video[clip][:, times], centre))
        for name, picture in (("frames", rows), ("mouths", mouths)):
            Image.fromarray(reference.stack_rows(picture).numpy()).save(out / f"sheet_{name}_{i}.jpg", quality=88)


def _around(video_3THW: Tensor, centre: Tensor) -> Tensor:
    height, width = video_3THW.shape[-2:]
    side = min(96, height, width)
    top = max(0, min(int(centre[1]) - side // 2, height - side))
    left = max(0, min(int(centre[0]) - side // 2, width - side))
    return video_3THW[..., top : top + side, left : left + side]


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = argparse.ArgumentParser(description="judge a training run on held-out clips")
    options.add_argument("--data", type=Path, required=True, help="folder of rendered clips")
    options.add_argument("--run", type=Path, required=True, help="folder of the training run")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--limit", type=int, default=16, help="clips an orientation")
    options.add_argument("--blocks", type=int, default=20, help="blocks a clip")
    options.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO)
    evaluate(parser().parse_args(argv))


if __name__ == "__main__":
    main()
