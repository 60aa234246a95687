"""Train the decoder that copies from the portrait, on the encoder and the latents of a finished model.

`python -m liveavatar.training.reference_decoder --data CLIPS --out RUN --init MODEL --seconds N`, under torchrun for
several GPUs. Encoder and transformer stay as they are. Training begins with MODEL's decoder, whose new branch (see
`liveavatar.model.vae_reference`) changes nothing yet, on the pairs of `reference_pairs`. Writes `autoencoder.pt`
(resumable) and `autoencoder.jsonl`; `export --decoder RUN --out MODEL` puts the decoder into a copy of the model.

Loss: the autoencoder's reconstruction loss + `--energy` x the difference in gradient energy of patches of 16 pixels
+ 0.02 x the flow's error at points whose place in the portrait is known + 0.3 x L1 of the warped portrait where the
light is the same + `--gate` x the gate where the portrait is further from the truth than the output: shut lips in an
open mouth, lashes on a cheek. One step in 16 has no reference, so that the decoder also works without one.

With `--features`, a share of the pairs has latents that the model's transformer drew (`drawn`), on which gradient
energy is lost that encoded latents keep. With `--adversary`, a patch discriminator on a quarter of the picture joins in
the second half of the budget. It is switched off for good when the averaged weights draw a grid (`lattice_ratio` of
held-out pictures over the truth's by `LARGEST_LATTICE`) or lose more than `ADVERSARY_ALLOWANCE` of PSNR.
"""

import argparse
import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model
from liveavatar.errors import CheckpointError
from liveavatar.model.vae_compact import PATCH, CompactVAE
from liveavatar.model.vae_reference import sharpened
from liveavatar.timing import BLOCK_FRAMES, LATENT_FRAMES
from liveavatar.training import runtime
from liveavatar.training.adversary import FRAMES, PatchDiscriminator, balanced_gradient, discriminator_loss
from liveavatar.training.autoencoder import BACKEND, EMA_DECAY, reconstruction_loss
from liveavatar.training.data import load_clips
from liveavatar.training.drawn import draw_clips, load_drawer
from liveavatar.training.features import load_bank
from liveavatar.training.optim import Average, Optimisers, rate_factor
from liveavatar.training.reference_losses import energy_loss, gate_loss
from liveavatar.training.reference_measures import HELD_OUT_CLIPS, held_out_measures
from liveavatar.training.reference_pairs import PairBatch, PairSampler, flow_loss, load_stills

FLOW_WEIGHT, COPY_WEIGHT = 0.02, 0.3
WITHOUT_REFERENCE = 16  # steps, of which one has no reference
SPLITS = ("train", "eval")
HELD_OUT_BLOCKS = 3  # of a held-out clip that the transformer draws
HELD_OUT_LEVEL = 0.7  # noise from which held-out clips are drawn: the last step of a render
ADVERSARY_START, ADVERSARY_ALLOWANCE, LARGEST_LATTICE = 0.5, 0.7, 1.15  # of the budget; dB; over the truth's
WEIGHTS = "autoencoder.pt"
log = logging.getLogger(__name__)


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


class Copied(NamedTuple):
    """Copied parts of N time-major frames."""

    pixels: Tensor  # [N, 3, S, S] the picture as warped
    flow: Tensor  # [N, 2, S/4, S/4]
    gate: Tensor  # [N, 1, S, S]


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
        self.held_out_clips = load_clips(args.data, "eval", rank.device) if rank.first else []
        self.held_out_drawn: list[Tensor] = []
        drawn = self._draw() if args.features and args.drawn_share else []
        self.sampler = PairSampler(
            self.clips, stills, args.frames, args.still_share, rank.generator(args.seed), drawn, args.drawn_share
        )
        self.adversary = PatchDiscriminator(64 if args.preset == "mini" else 8).to(rank.device)
        self.adversary_optim = torch.optim.AdamW(self.adversary.parameters(), 2e-4, betas=(0.5, 0.9))
        self.adversary_on, self.best_psnr = bool(args.adversary), 0.0
        self.step = 0
        self.decode = self._decode

    def _draw(self) -> list[Tensor]:
        """Draw the clips with the model's transformer, and a part of the held-out ones."""
        net, args, rank = load_drawer(self.args.init, self.rank.device), self.args, self.rank
        banks = {s: load_bank(args.features, s, net.cfg.dit.audio_history_frames, rank.device) for s in SPLITS}
        drawn = [draw_clips(net, self.before, clips, banks["train"], rank, args.seed) for clips in self.clips]
        levels = (HELD_OUT_LEVEL, HELD_OUT_LEVEL)
        self.held_out_clips = [c.first(HELD_OUT_CLIPS, BLOCK_FRAMES * HELD_OUT_BLOCKS) for c in self.held_out_clips]
        for clips in self.held_out_clips:
            self.held_out_drawn.append(draw_clips(net, self.before, clips, banks["eval"], rank, 1, levels)[:, 0])
        log.info("drew %d clips", sum(len(d) for d in drawn))
        return drawn

    def compile(self) -> None:
        """Compile the decoder; on failure training continues uncompiled."""
        torch._dynamo.config.suppress_errors = True
        self.decode = torch.compile(self._decode, backend=BACKEND, dynamic=False)

    def _decode(self, latents: Tensor, picture: Tensor, latent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode, copying from a picture: the video, the warped picture's frames [N, 3, S, S], the flow, the gate."""
        video, warped = self.vae.decode_copying(latents, self.vae.reference(picture, latent))
        assert warped is not None
        assert warped.gate is not None
        return video, F.pixel_shuffle(warped.pixels, PATCH), warped.flow, F.pixel_shuffle(warped.gate, PATCH)

    def train_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the decoder once, and the adversary when it is on."""
        batch = self.sampler.sample(self.args.batch)
        with self.rank.autocast():
            with torch.no_grad():
                latents = self.vae.encode(batch.video)
                latent = self.vae.encode(batch.reference.expand(-1, -1, LATENT_FRAMES, -1, -1))
            strength = self.args.latent_noise * torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
            noised = latents + strength * torch.randn_like(latents)
            if batch.latents is not None:
                noised = torch.where(batch.drawn[:, None, None, None, None], batch.latents.to(noised.dtype), noised)
            if self.step % WITHOUT_REFERENCE == WITHOUT_REFERENCE - 1:
                decoded, copied = self.vae.decode(noised), None
            else:
                decoded, *parts = self.decode(noised, batch.reference, latent)
                copied = Copied(*parts)
        output = decoded.detach().float().requires_grad_()
        losses = self._picture_losses(output, batch)
        picture = torch.stack(list(losses.values())).sum()
        if self.adversary_on and fraction > ADVERSARY_START:
            gradient, extra = self._adversarial_gradient(picture, output, batch)
        else:
            gradient, extra = torch.autograd.grad(picture, output)[0], {}
        roots, gradients = [decoded], [gradient.to(decoded.dtype)]
        if copied is not None:
            more = self._copying_losses(output.detach(), copied, batch)
            losses |= more
            roots.append(torch.stack(list(more.values())).sum())
            gradients.append(torch.ones_like(roots[-1]))
        torch.autograd.backward(roots, gradients)
        for parameter in self.optim.params:
            if parameter.grad is None:  # of the branch, in a step without a reference
                parameter.grad = torch.zeros_like(parameter)
        runtime.average_gradients(self.optim.params, self.rank)
        norm = self.optim.step(rate_factor(self.step, fraction))
        self.average.update(self.vae, self.step)
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()} | {"grad_norm": norm} | extra

    def _picture_losses(self, decoded: Tensor, batch: PairBatch) -> dict[str, Tensor]:
        losses = {"loss": reconstruction_loss(decoded, sharpened(batch.video, self.args.sharpen), batch.weights)}
        if self.args.energy:
            losses["energy_loss"] = self.args.energy * energy_loss(decoded, batch.video)
        return losses

    def _copying_losses(self, decoded: Tensor, copied: Copied, batch: PairBatch) -> dict[str, Tensor]:
        # Frames are time-major here, as in the decoder.
        truth, own = (video.permute(2, 0, 1, 3, 4).flatten(0, 1) for video in (batch.video, decoded))
        same = batch.same_light.repeat(batch.video.shape[2])
        away = ((copied.pixels.float() - truth).abs().mean((1, 2, 3)) * same).sum() / same.sum().clamp(min=1)
        points, targets = (x.transpose(0, 1).flatten(0, 1) for x in (batch.points, batch.targets))
        weights = batch.weights.transpose(0, 1).flatten(0, 1)
        return {
            "copy": COPY_WEIGHT * away,
            "flow": FLOW_WEIGHT * flow_loss(copied.flow, points, targets, truth.shape[-1]),
            "gate": self.args.gate * gate_loss(own, truth, copied.pixels.float(), copied.gate.float(), weights),
        }

    def _adversarial_gradient(self, loss: Tensor, output: Tensor, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Update the adversary; return the gradient at the output of the loss and of the adversary together."""
        side, times = output.shape[-1] // 2, torch.randperm(output.shape[2])[:FRAMES].tolist()
        top, left = torch.randint(side + 1, (2,)).tolist()
        window = (slice(None), slice(None), times, slice(top, top + side), slice(left, left + side))
        real, made = (video[window].transpose(1, 2).flatten(0, 1) for video in (batch.video, output))
        with self.rank.autocast():
            adversary_loss = discriminator_loss(self.adversary, real, made.detach())
        self.adversary_optim.zero_grad(set_to_none=True)
        adversary_loss.backward()
        runtime.average_gradients(list(self.adversary.parameters()), self.rank)
        self.adversary_optim.step()
        self.adversary.requires_grad_(False)
        with self.rank.autocast():
            pull = -self.adversary(made).mean()
        gradient = balanced_gradient(loss, pull, output)
        self.adversary.requires_grad_(True)
        return gradient, {"adversary": adversary_loss.detach()}

    def guard(self, psnr: float, lattice: float) -> None:
        """Switch the adversary off for good when it draws a grid or costs too much."""
        self.best_psnr = max(self.best_psnr, psnr)
        if self.adversary_on and (lattice > LARGEST_LATTICE or psnr < self.best_psnr - ADVERSARY_ALLOWANCE):
            self.adversary_on = False
            log.warning("adversary off: %.2f dB of %.2f, lattice ratio %.2f", psnr, self.best_psnr, lattice)

    def held_out(self) -> dict[str, float]:
        """Measure the averaged weights on held-out clips, copying from the photo and from a frame of the clip."""
        self.average.copy_to(self.average_vae)
        photo = held_out_measures(self.average_vae, self.held_out_clips, self.rank, from_photo=True)
        frame = held_out_measures(self.average_vae, self.held_out_clips, self.rank, from_photo=False)
        values = photo | {f"{name}_frame": value for name, value in frame.items()}
        if self.held_out_drawn:
            drawn = held_out_measures(self.average_vae, self.held_out_clips, self.rank, True, self.held_out_drawn)
            values |= {f"{name}_drawn": value for name, value in drawn.items()}
        return values

    def state(self, seconds: float) -> dict[str, Any]:
        """Collect the state for `autoencoder.pt`."""
        return {
            "weights": {n: p.detach() for n, p in self.vae.named_parameters()},
            "average": self.average.weights,
            "optim": self.optim.state_dict(),
            "adversary": self.adversary.state_dict(),
            "adversary_optim": self.adversary_optim.state_dict(),
            "adversary_on": self.adversary_on,
            "best_psnr": self.best_psnr,
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
        self.adversary.load_state_dict(state["adversary"])
        self.adversary_optim.load_state_dict(state["adversary_optim"])
        self.adversary_on, self.best_psnr = state["adversary_on"], state["best_psnr"]
        self.step = state["step"]


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
    runtime.run_steps(trainer, saver, journal, args, 10, lambda row: _share_guard(trainer, row, rank))


def _share_guard(trainer: ReferenceTrainer, row: Mapping[str, float], rank: runtime.TrainRank) -> None:
    """Tell every rank what the first one measured, if it did."""
    drawn = "_drawn" if "psnr_drawn" in row else ""
    measured = torch.tensor([row.get(f"{name}{drawn}", 0.0) for name in ("psnr", "lattice")], device=rank.device)
    psnr, lattice = (rank.mean(measured) * rank.world).tolist()
    if psnr > 0:
        trainer.guard(psnr, lattice)


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
    options.add_argument("--gate", type=float, default=0.0, help="weight of the gate where the portrait is wrong")
    options.add_argument("--features", type=Path, help="folder of speech features, for latents that are drawn")
    options.add_argument("--drawn_share", type=float, default=0.35, help="of the batch, with --features")
    options.add_argument("--adversary", type=int, default=0, help="1: a patch discriminator in the second half")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
