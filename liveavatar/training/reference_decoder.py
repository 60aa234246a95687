"""Train the decoder that copies from the portrait, on the encoder and the latents of a finished model.

`python -m liveavatar.training.reference_decoder --data CLIPS --out RUN --init MODEL --seconds N`, under torchrun for
several GPUs. Encoder and transformer stay as they are. Training begins with MODEL's decoder, whose new branch (see
`liveavatar.model.vae_reference`) changes nothing yet, on the pairs of `reference_pairs`. Writes `autoencoder.pt`
(resumable) and `autoencoder.jsonl`; `export --decoder RUN --out MODEL` puts the decoder into a copy of the model.

Loss: the autoencoder's reconstruction loss + `--energy` x the difference in gradient energy of patches of 16 pixels
+ 0.02 x the flow's error at points whose place in the portrait is known + 0.3 x L1 of the warped portrait where the
light is the same. One step in 16 has no reference, so that the decoder also works without one.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model
from liveavatar.errors import CheckpointError
from liveavatar.model.vae_compact import PATCH, CompactVAE
from liveavatar.model.vae_reference import sharpened
from liveavatar.quality import reference as measure
from liveavatar.quality.reference import region_weights, to_video
from liveavatar.timing import LATENT_FRAMES
from liveavatar.training import runtime
from liveavatar.training.autoencoder import BACKEND, EMA_DECAY, reconstruction_loss
from liveavatar.training.data import Clips, load_clips
from liveavatar.training.optim import Average, Optimisers, rate_factor
from liveavatar.training.reference_pairs import PairBatch, PairSampler, flow_loss, load_stills

FLOW_WEIGHT, COPY_WEIGHT, ENERGY_PATCH = 0.02, 0.3, 16
WITHOUT_REFERENCE = 16  # steps, of which one has no reference
HELD_OUT_CLIPS, HELD_OUT_FRAMES = 6, 24
WEIGHTS = "autoencoder.pt"


def energy_loss(decoded: Tensor, truth: Tensor) -> Tensor:
    """Compute the mean difference in root gradient energy between patches of videos [B, 3, T, H, W]."""
    energies = [_patch_energy(video.transpose(1, 2).flatten(0, 1)) for video in (decoded, truth)]
    return (energies[0] - energies[1]).abs().mean()


def _patch_energy(frames_NCHW: Tensor) -> Tensor:
    grey = frames_NCHW.mean(1, keepdim=True)
    dx, dy = grey[..., :-1, 1:] - grey[..., :-1, :-1], grey[..., 1:, :-1] - grey[..., :-1, :-1]
    return (F.avg_pool2d(dx.square() + dy.square(), ENERGY_PATCH, ENERGY_PATCH // 2) + 1e-6).sqrt()


def copying_autoencoder(model_dir: Path, width: int, blocks: Sequence[int] = ()) -> CompactVAE:
    """Build a model's autoencoder with a branch of this width that changes nothing yet.

    Args:
        model_dir: holds its weights.
        width: of the branch.
        blocks: number of residual blocks of each stage of the decoder, at most the model's own (the default); the
            last ones are left out, which changes its pictures least.

    Raises:
        CheckpointError: its autoencoder is of another kind, or has a branch of another width.
    """
    config = read_config(model_dir).vae
    if config.kind != "compact" or config.reference_width not in (0, width):
        raise CheckpointError(
            f"--init {model_dir}: its autoencoder is {config.kind!r} with a reference branch of width "
            f"{config.reference_width}; name a model with a compact one and no branch, or one of width {width}"
        )
    blocks = tuple(blocks) or config.decoder_blocks
    vae = CompactVAE(replace(config, reference_width=width, decoder_blocks=blocks))
    start = load_model(model_dir, "cpu", torch.float32, parts=("vae",)).vae
    missing, _ = vae.load_state_dict(start.state_dict(), strict=False)
    if not all(name.startswith("decoder.branch.") for name in missing):
        raise CheckpointError(f"--blocks {blocks}: {model_dir} has fewer blocks than that; give at most its own")
    vae.encoder.requires_grad_(False)
    return vae


class ReferenceTrainer:
    """Trainer of the decoder and its branch."""

    def __init__(self, args: argparse.Namespace, rank: runtime.TrainRank) -> None:
        self.args, self.rank = args, rank
        self.vae = runtime.channels_last(copying_autoencoder(args.init, args.width, args.blocks).to(rank.device))
        self.before = load_model(args.init, rank.device, torch.float32, parts=("vae",)).vae
        self.average_vae = copy.deepcopy(self.vae).eval()
        self.optim = Optimisers(
            self.vae.named_parameters(),
            muon=args.muon,
            adamw=args.adamw,
            outer=lambda name: name.split(".")[-2].startswith("conv_"),
            record=args.graphs,
        )
        self.average = Average(self.vae, EMA_DECAY)
        self.clips = load_clips(args.data, "train", rank.device, rank.rank, rank.world)
        side = min(self.clips[0].size)
        stills = load_stills(args.stills, side, rank.device) if args.stills else []
        share = args.still_share
        self.sampler = PairSampler(self.clips, stills, args.frames, share, rank.generator(args.seed))
        self.held_out_clips = load_clips(args.data, "eval", rank.device) if rank.first else []
        self.step = 0
        self.decode = self._decode

    def compile(self) -> None:
        """Compile the decoder; on failure training continues uncompiled."""
        torch._dynamo.config.suppress_errors = True
        self.decode = torch.compile(self._decode, backend=BACKEND, dynamic=False)

    def _decode(self, latents: Tensor, picture: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode, copying from a picture: the video, the warped picture's frames [N, 3, S, S] and the flow."""
        video, warped = self.vae.decode_copying(latents, self.vae.reference(picture, latent))
        assert warped is not None
        return video, F.pixel_shuffle(warped.pixels, PATCH), warped.flow

    def train_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the decoder once."""
        batch = self.sampler.sample(self.args.batch)
        with self.rank.autocast():
            with torch.no_grad():
                latents = self.vae.encode(batch.video)
                latent = self.vae.encode(batch.reference.expand(-1, -1, LATENT_FRAMES, -1, -1))
            strength = self.args.latent_noise * torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
            noised = latents + strength * torch.randn_like(latents)
            if self.step % WITHOUT_REFERENCE == WITHOUT_REFERENCE - 1:
                decoded, copied, flow = self.vae.decode(noised), None, None
            else:
                decoded, copied, flow = self.decode(noised, batch.reference, latent)
        losses = self._losses(decoded.float(), copied, flow, batch)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        for parameter in self.optim.params:
            if parameter.grad is None:  # of the branch, in a step without a reference
                parameter.grad = torch.zeros_like(parameter)
        runtime.average_gradients(self.optim.params, self.rank)
        norm = self.optim.step(rate_factor(self.step, fraction))
        self.average.update(self.vae, self.step)
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()} | {"grad_norm": norm}

    def _losses(
        self, decoded: Tensor, copied: Tensor | None, flow: Tensor | None, batch: PairBatch
    ) -> dict[str, Tensor]:
        losses = {
            "loss": reconstruction_loss(decoded, sharpened(batch.video, self.args.sharpen), batch.weights),
            "energy_loss": self.args.energy * energy_loss(decoded, batch.video),
        }
        if copied is not None and flow is not None:
            # Frames are time-major here, as in the decoder.
            truth = batch.video.permute(2, 0, 1, 3, 4).flatten(0, 1)
            same = batch.same_light.repeat(batch.video.shape[2])
            away = ((copied.float() - truth).abs().mean((1, 2, 3)) * same).sum() / same.sum().clamp(min=1)
            points, targets = (x.transpose(0, 1).flatten(0, 1) for x in (batch.points, batch.targets))
            losses["copy"] = COPY_WEIGHT * away
            losses["flow"] = FLOW_WEIGHT * flow_loss(flow, points, targets, truth.shape[-1])
        return losses

    def held_out(self) -> dict[str, float]:
        """Measure the averaged weights on held-out clips, copying from the photo and from a frame of the clip."""
        self.average.copy_to(self.average_vae)
        photo = held_out_measures(self.average_vae, self.held_out_clips, self.rank, from_photo=True)
        frame = held_out_measures(self.average_vae, self.held_out_clips, self.rank, from_photo=False)
        return photo | {f"{name}_frame": value for name, value in frame.items()}

    def state(self, seconds: float) -> dict[str, Any]:
        """Collect the state for `autoencoder.pt`."""
        return {
            "weights": {n: p.detach() for n, p in self.vae.named_parameters()},
            "average": self.average.weights,
            "optim": self.optim.state_dict(),
            "reference_width": self.args.width,
            "decoder_blocks": list(self.vae.config.decoder_blocks),
            "step": self.step,
            "seconds": seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.vae.load_state_dict(state["weights"])
        self.average.load(state["average"])
        self.optim.load_state_dict(state["optim"])
        self.step = state["step"]


def held_out_videos(clips: Clips, i: int, from_photo: bool) -> tuple[Tensor, Tensor]:
    """Cut the first frames of a held-out clip [1, 3, T, H, W], and a picture [1, 3, 1, H, W] of the person."""
    count = min(HELD_OUT_FRAMES, clips.num_frames) // LATENT_FRAMES * LATENT_FRAMES
    at = clips.num_frames if from_photo else clips.num_frames - 1
    return to_video(clips.frames[i : i + 1, :count]), to_video(clips.frames[i : i + 1, at : at + 1])


def copied_video(vae: CompactVAE, video: Tensor, picture: Tensor) -> Tensor:
    """Encode a video [B, 3, T, H, W] and decode it, copying from a picture [B, 3, 1, H, W] if `vae` can."""
    latent = vae.encode_still(picture, 1)
    return vae.decode_copying(vae.encode(video), vae.reference(picture, latent))[0].float()


@torch.no_grad()
def held_out_measures(
    vae: CompactVAE, held_out: list[Clips], rank: runtime.TrainRank, from_photo: bool
) -> dict[str, float]:
    """Measure an autoencoder that copies, on held-out clips: PSNR and gradient energy, of the face too."""
    rows = []
    for clips in held_out:
        for i in range(min(HELD_OUT_CLIPS, len(clips.frames))):
            truth, picture = held_out_videos(clips, i, from_photo)
            with rank.autocast():
                decoded = copied_video(vae, truth, picture)
            points = clips.landmarks[i : i + 1, : truth.shape[2]]
            mouth, face = region_weights(points, clips.size, 1.0, 0.0, 0.0), measure.face_ellipse(points, clips.size)
            rows.append(
                [
                    measure.psnr(decoded, truth), measure.psnr(decoded, truth, mouth),
                    measure.psnr(decoded, truth, face.float()),
                    measure.energy_kept(decoded, truth), measure.energy_kept(decoded, truth, face.float()),
                    measure.mean_edge_jump(decoded, LATENT_FRAMES)
                    / max(measure.mean_edge_jump(truth, LATENT_FRAMES), 1e-6),
                ]
            )  # fmt: skip
    names = ("psnr", "psnr_mouth", "psnr_face", "energy", "energy_face", "latent_jump")
    return dict(zip(names, torch.tensor(rows).mean(0).tolist(), strict=True))


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Run the stage until its time budget is used up."""
    trainer = ReferenceTrainer(args, rank)
    path = args.out / WEIGHTS
    budget = runtime.resume(trainer, path, args, rank)
    journal = runtime.JsonLog(args.out / "autoencoder.jsonl", rank)
    if rank.first and not trainer.step:
        before = held_out_measures(trainer.before, trainer.held_out_clips, rank, from_photo=True)
        journal.report(0, budget, before, before=1)
    if args.compile:
        trainer.compile()
    saver = runtime.Saver(path, trainer, budget, args.save_every)
    runtime.run_steps(trainer, saver, journal, args, 10)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = runtime.loop_arguments("train the decoder that copies from the portrait")
    options.add_argument("--init", type=Path, required=True, help="model directory whose decoder to start from")
    options.add_argument("--stills", type=Path, help="folder of pictures, PNG or JPEG, to learn from besides the clips")
    options.add_argument("--still_share", type=float, default=0.4, help="of the batch: one picture and its distortion")
    options.add_argument("--width", type=int, default=32, help="channels of the branch's features")
    options.add_argument(
        "--blocks", type=int, nargs=3, default=(), help="residual blocks of the decoder at 1/16, 1/8, 1/4; as in --init"
    )
    options.add_argument("--seconds", type=float, default=900)
    options.add_argument("--batch", type=int, default=24, help="pairs a GPU")
    options.add_argument("--frames", type=int, default=12, help="frames of a video")
    options.add_argument("--muon", type=float, default=0.006, help="rate of the convolutions")
    options.add_argument("--adamw", type=float, default=6e-4, help="rate of everything else")
    options.add_argument("--latent_noise", type=float, default=0.15, help="largest noise on the latents")
    options.add_argument("--sharpen", type=float, default=0.15, help="strength of the unsharp mask on the target")
    options.add_argument("--energy", type=float, default=0.3, help="weight of the patches' gradient energy")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
