"""Measures of made videos, each beside the true video of the same speech.

A value of the split is the mean over its clips of what could be measured; `*_ratio` is the mean of the made videos over
the mean of the true ones. `av_offset_frames` is the lag with the highest mean cross-correlation over all clips.

A made video begins with the portrait, whose lips are shut; the true clips begin in the middle of speech. Curves of
mouth and lids are therefore compared from the end of that opening on. `*_whole` includes its frames.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveavatar.bench.quality.faces import FaceCurves, blink_depth, head_spread, read_faces
from liveavatar.bench.quality.videos import Video, video_frames
from liveavatar.engine.engine import Engine
from liveavatar.engine.plain import frames_uint8, image_tensor
from liveavatar.face.landmarks import FaceTracker
from liveavatar.media.film import SEGMENT_FRAMES
from liveavatar.media.opening import OPENING
from liveavatar.model.vae import VideoVAE
from liveavatar.quality import reference, sync
from liveavatar.quality.curves import best_lag, correlation
from liveavatar.quality.evaluate import evaluate_video
from liveavatar.quality.motion import mean_edge_jump
from liveavatar.quality.reference import region_weights, to_video
from liveavatar.quality.split import Clip, Labels
from liveavatar.timing import BLOCK_FRAMES

AE_FRAMES = 48  # of a clip that the autoencoder is tried on
GRID, GRID_EVERY = 8, 10  # pixels a side of the lattice; frames between two that are looked at
# Numbers of `evaluate_video` that say something of a short video with a portrait.
VIDEO_MEASURES = (
    *("sync_error_frames", "lip_sync", "silent_lip", "silent_openness", "openness_range", "av_correlation"),
    *("identity_min", "texture_psnr", "sharpness_ratio", "flicker", "jerk_index", "motion_energy"),
    *("dropped_frames", "duration_error_s", "face_share", "repeated_frames"),
)
RATIOS = ("blink_depth", "head_spread", "flicker", "jerk_index", "motion_energy")


@dataclass(frozen=True, slots=True)
class Seen:
    """Measures and face curves of one video."""

    values: dict[str, float]  # measures of this video alone; absent when they cannot be measured
    reasons: dict[str, str]  # measure -> why it is absent
    faces: FaceCurves
    openness: np.ndarray  # [T] as `evaluate_video` read it
    vowels: np.ndarray  # [T] vowel envelope of the sound


def look(video: Video, photo: np.ndarray | None, speech: np.ndarray, tracker: FaceTracker) -> Seen:
    """Measure one video against its portrait and its sound.

    Args:
        video: made or true.
        photo: portrait, uint8 [H, W, 3]; None skips likeness.
        speech: sound to compare with, float32 mono at 16 kHz.
        tracker: landmark tracker, reset before use.
    """
    result = evaluate_video(video.path, photo, speech, threads=min(2, torch.get_num_threads()))
    measures = {k: result.metrics[k] for k in VIDEO_MEASURES}
    values = {
        ("texture_psnr_portrait" if k == "texture_psnr" else k): float(v) for k, v in measures.items() if v is not None
    }
    change = result.frames["change"].to_numpy(float)
    values["edge_jump"] = mean_edge_jump(change, key_frames=SEGMENT_FRAMES)
    frames = video_frames(video)
    faces = read_faces(frames, tracker)
    values |= {"blink_depth": blink_depth(faces.lids), "head_spread": head_spread(faces.head)}
    values["grid_ratio"] = grid_ratio(frames[::GRID_EVERY])
    values = {k: v for k, v in values.items() if np.isfinite(v)}
    return Seen(
        values, {k: v for k, v in result.reasons.items() if k in VIDEO_MEASURES}, faces,
        result.frames["openness"].to_numpy(float), result.frames["vowel_envelope"].to_numpy(float),
    )  # fmt: skip


def grid_ratio(frames_THWC: np.ndarray) -> float:
    """Detect specks on a lattice: fine structure at the strongest of 8*8 positions over its mean (1 = even).

    Fine structure is the difference from a median over 3*3 pixels. True videos have 1.1; a decoder that drew a dark
    pixel in every cell, which no other measure noticed, had 4 to 7.
    """
    import cv2

    strength = np.zeros((GRID, GRID))
    for frame in frames_THWC:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        fine = cv2.absdiff(grey, cv2.medianBlur(grey, 3)).astype(np.float64)
        rows, columns = (n // GRID for n in fine.shape)
        cells = fine[: rows * GRID, : columns * GRID].reshape(rows, GRID, columns, GRID)
        strength += cells.mean((0, 2))
    return float(strength.max() / strength.mean()) if strength.any() else float("nan")


@dataclass(slots=True)
class Pair:
    """One clip: the true video, the rendered one, and the one rendered with the true head pose."""

    name: str
    true: Seen
    rendered: Seen
    labels: Labels
    posed: dict[str, float] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Return all measures of this clip."""
        rendered, true = self.rendered.faces, self.true.faces
        gap, width, lids = label_curves(self.labels)
        own = {
            "openness_corr": opened_correlation(rendered.openness, true.openness),
            "width_corr": opened_correlation(rendered.width, true.width),
            "lids_corr": opened_correlation(rendered.lids, true.lids),
            "openness_corr_whole": correlation(rendered.openness, true.openness),
            "width_corr_whole": correlation(rendered.width, true.width),
            "openness_corr_labels": opened_correlation(rendered.openness, gap),
            "width_corr_labels": opened_correlation(rendered.width, width),
            "openness_amplitude": _spread(rendered.openness) / max(_spread(true.openness), 1e-6),
            "reader_openness_corr": correlation(true.openness, gap),
            "reader_width_corr": correlation(true.width, width),
            "reader_lids_corr": correlation(true.lids, lids),
            "reader_head_corr": float(
                np.mean([correlation(true.head[:, k], self.labels.head[:, k]) for k in range(3)])
            ),
        }
        return self.rendered.values | own | self.posed | self.speed


def opened_correlation(made_T: np.ndarray, true_T: np.ndarray) -> float:
    """Correlate a curve of a made video with the true one, from the end of the opening on."""
    return correlation(made_T[OPENING:], true_T[OPENING:])


def _spread(curve_T: np.ndarray) -> float:
    seen = curve_T[np.isfinite(curve_T)]
    return float(seen.std()) if len(seen) else float("nan")


def label_curves(labels: Labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return openness, width and lid gap [T] of the true landmarks."""
    points = torch.from_numpy(labels.landmarks)
    makers = (reference.openness, reference.mouth_width, reference.eye_opening)
    gap, width, lids = (make(points).numpy() for make in makers)
    return gap, width, lids


def compare_posed(video: Video, clip: Clip, labels: Labels) -> dict[str, float]:
    """Compare pixels of a video conditioned on the true head pose (and eyes) with the true video.

    `texture_psnr` is the PSNR inside the ellipse that each frame's true landmarks fill, per frame, averaged, dB;
    `eyes_error_share` is the part of its squared error that lies in boxes around the eyes, whose part of the ellipse is
    `eyes_area_share`. For a video conditioned on the true eyes, too, a run calls it `texture_psnr_eyes`.
    """
    rendered, true = video_frames(video), clip.frames()
    count = min(len(rendered), len(true), len(labels.landmarks))
    points = torch.from_numpy(labels.landmarks[:count])
    names = ("texture_psnr", "frame_psnr", "energy_face", "eyes_error_share", "eyes_area_share")
    numbers = dict.fromkeys(names, 0.0)
    for part in torch.arange(count).split(BLOCK_FRAMES):
        a, b = (to_video(torch.from_numpy(x[part.numpy()])[None]) for x in (rendered, true))
        face = reference.face_ellipse(points[part], a.shape[-2:])[None].float()
        share = len(part) / count
        numbers["texture_psnr"] += share * reference.psnr(a, b, face)
        numbers["frame_psnr"] += share * reference.psnr(a, b)
        numbers["energy_face"] += share * reference.energy_kept(a, b, face)
        eyes = region_weights(points[part], (a.shape[-2], a.shape[-1]), 0.0, 1.0, 0.0)[None]
        numbers["eyes_error_share"] += share * reference.error_share(a, b, face, eyes)
        numbers["eyes_area_share"] += share * float((face * eyes).sum() / face.sum())
    return numbers


@torch.inference_mode()
def judge_autoencoder(engine: Engine, clips: Iterable[Clip], tracker: FaceTracker) -> dict[str, float]:
    """Measure the autoencoder alone on the true pictures, the ceiling of a perfect transformer.

    PSNR (whole, mouth box) in dB, gradient energy kept, difference between frames over the truth's, and how the mouth
    read off its pictures follows the true one. A decoder that copies from the portrait has the clip's.
    """
    rows = []
    for clip in clips:
        frames = torch.from_numpy(clip.frames()[:AE_FRAMES])
        truth = to_video(frames[None])
        rendered = autoencoded(engine.backend.vae, truth.to(engine.device, engine.dtype), clip.photo()).float().cpu()
        size = (truth.shape[-2], truth.shape[-1])
        points = torch.from_numpy(clip.labels().landmarks[: len(frames)])
        mouth = region_weights(points, size, 1.0, 0.0, 0.0)[None]
        copied, true = read_faces(frames_uint8(rendered[0]), tracker), read_faces(frames.numpy(), tracker)
        rows.append(
            [
                reference.psnr(rendered, truth), reference.psnr(rendered, truth, mouth),
                reference.energy_kept(rendered, truth), reference.energy_kept(rendered, truth, mouth),
                clip.info.film_psnr,
                correlation(copied.openness, true.openness), correlation(copied.width, true.width),
                float(reference.frame_steps(rendered).mean() / reference.frame_steps(truth).mean().clamp(min=1e-6)),
            ]
        )  # fmt: skip
    names = (
        *("ae_psnr", "ae_psnr_mouth", "ae_energy", "ae_energy_mouth", "film_psnr"),
        *("ae_openness_corr", "ae_width_corr", "ae_change"),
    )
    return mean_values(dict(zip(names, row, strict=True)) for row in rows)


@torch.inference_mode()
def autoencoded(vae: VideoVAE, video: Tensor, photo: np.ndarray) -> Tensor:
    """Encode and decode a video [1, 3, T, H, W] of the person of a portrait, uint8 [H, W, 3]."""
    latents, picture = vae.encode(video), image_tensor(photo).to(video.device, video.dtype)
    state = vae.decoder_state(1, *latents.shape[-2:])
    vae.set_reference(picture, vae.encode_still(picture, 1), state)
    return vae.decode_stream(latents, state)


def offset(seen: Iterable[Seen]) -> tuple[int, float]:
    """Return the lag in frames with the highest mean cross-correlation over videos, and that correlation."""
    curves = [sync.cross_correlation(s.openness, s.vowels, sync.MAX_LAG) for s in seen]
    mean = np.mean(curves, 0)
    return int(mean.argmax()) - sync.MAX_LAG, float(mean.max())


def mean_values(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Average every measure over the clips that have it."""
    gathered: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if np.isfinite(value):
                gathered.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in gathered.items()}


@dataclass(frozen=True, slots=True)
class Summary:
    """Measures of the whole split."""

    rendered: dict[str, float]  # measures of the made videos, and their ratios to the true ones
    true: dict[str, float]
    gaps: dict[str, int]  # measure -> clips in which the true video has it and the made one does not
    reasons: dict[str, str]  # measure -> why some video lacks it


def summarise(pairs: list[Pair]) -> Summary:
    """Average the clips of the split and compare the made videos with the true ones."""
    rows = [p.values() for p in pairs]
    rendered, true = mean_values(rows), mean_values(p.true.values for p in pairs)
    rendered["av_offset_frames"], rendered["av_correlation"] = offset(p.rendered for p in pairs)
    true["av_offset_frames"], true["av_correlation"] = offset(p.true for p in pairs)
    rendered["lag_frames"] = best_lag(
        [p.rendered.faces.openness for p in pairs], [p.true.faces.openness for p in pairs]
    )
    rendered |= _ratios(pairs)
    return Summary(rendered, true, _gaps(pairs, rows), {k: v for p in pairs for k, v in p.rendered.reasons.items()})


def _ratios(pairs: list[Pair]) -> dict[str, float]:
    """Return mean measures of made videos over those of true videos, from clips that have both."""
    ratios = {}
    for name in (*RATIOS, "identity_min"):
        both = [(p.rendered.values[name], p.true.values[name]) for p in pairs if _both_have(p, name)]
        if not both:
            continue
        rendered, true = np.mean(both, 0).tolist()
        if name == "flicker":  # 1 minus the frame difference, which is what is compared
            rendered, true = 1 - rendered, 1 - true
        ratios["identity_ratio" if name == "identity_min" else f"{name}_ratio"] = rendered / max(true, 1e-6)
    return ratios


def _both_have(pair: Pair, name: str) -> bool:
    return name in pair.rendered.values and name in pair.true.values


def _gaps(pairs: list[Pair], rows: list[dict[str, float]]) -> dict[str, int]:
    """Count, by measure, the clips in which only the true video has a value."""
    gaps: dict[str, int] = {}
    for pair, row in zip(pairs, rows, strict=True):
        lost = [name for name in pair.true.values if name not in pair.rendered.values]
        lost += [name for name in ("openness_corr", "width_corr") if not np.isfinite(row[name])]
        for name in lost:
            gaps[name] = gaps.get(name, 0) + 1
    return gaps


def plain_rows(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Return one row per clip, for the report."""
    return [{"clip": p.name, **p.values()} for p in pairs]
