"""Measures of a decoder that copies from the portrait, on held-out clips."""

from collections.abc import Sequence

import torch
from torch import Tensor

from liveavatar.model.vae_compact import CompactVAE
from liveavatar.quality import reference as measure
from liveavatar.quality.reference import region_weights, to_video
from liveavatar.timing import LATENT_FRAMES
from liveavatar.training import runtime
from liveavatar.training.data import Clips

HELD_OUT_CLIPS, HELD_OUT_FRAMES = 6, 24


def held_out_videos(clips: Clips, i: int, from_photo: bool) -> tuple[Tensor, Tensor]:
    """Cut the first frames of a held-out clip [1, 3, T, H, W], and a picture [1, 3, 1, H, W] of the person."""
    count = min(HELD_OUT_FRAMES, clips.num_frames) // LATENT_FRAMES * LATENT_FRAMES
    at = clips.num_frames if from_photo else clips.num_frames - 1
    return to_video(clips.frames[i : i + 1, :count]), to_video(clips.frames[i : i + 1, at : at + 1])


def copied_video(vae: CompactVAE, latents: Tensor, picture: Tensor) -> Tensor:
    """Decode latents [B, C, T, h, w], copying from a picture [B, 3, 1, H, W] if `vae` can."""
    return vae.decode_copying(latents, vae.reference(picture, vae.encode_still(picture, 1)))[0].float()


@torch.no_grad()
def held_out_measures(
    vae: CompactVAE,
    held_out: list[Clips],
    rank: runtime.TrainRank,
    from_photo: bool,
    drawn: Sequence[Tensor] = (),
) -> dict[str, float]:
    """Measure an autoencoder that copies, on held-out clips: PSNR, gradient energy, face, grid over the truth's.

    With `drawn`, latents [n, C, T, h, w] an orientation, these are decoded instead of the encoded pictures.
    """
    rows = []
    for number, clips in enumerate(held_out):
        for i in range(min(HELD_OUT_CLIPS, len(clips.frames))):
            truth, picture = held_out_videos(clips, i, from_photo)
            with rank.autocast():
                encoded = vae.encode(truth)
                latents = drawn[number][i : i + 1, :, : encoded.shape[2]].to(encoded.dtype) if drawn else encoded
                decoded = copied_video(vae, latents, picture)
            points = clips.landmarks[i : i + 1, : truth.shape[2]]
            mouth, face = region_weights(points, clips.size, 1.0, 0.0, 0.0), measure.face_ellipse(points, clips.size)
            rows.append(
                [
                    measure.psnr(decoded, truth), measure.psnr(decoded, truth, mouth),
                    measure.psnr(decoded, truth, face.float()),
                    measure.energy_kept(decoded, truth), measure.energy_kept(decoded, truth, face.float()),
                    measure.mean_edge_jump(decoded, LATENT_FRAMES)
                    / max(measure.mean_edge_jump(truth, LATENT_FRAMES), 1e-6),
                    measure.lattice_ratio(decoded[:, :, ::LATENT_FRAMES])
                    / measure.lattice_ratio(truth[:, :, ::LATENT_FRAMES]),
                ]
            )  # fmt: skip
    names = ("psnr", "psnr_mouth", "psnr_face", "energy", "energy_face", "latent_jump", "lattice")
    return dict(zip(names, torch.tensor(rows).mean(0).tolist(), strict=True))
