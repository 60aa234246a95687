"""Stage 1: train the compact autoencoder on rendered clips.

`python -m liveavatar.training.autoencoder --data DIR --out DIR --seconds N --preset mini`, under torchrun for
several GPUs. Writes `autoencoder.pt` (resumable; holds the averaged weights that the later stages use) and
`autoencoder.jsonl`.

Loss: region-weighted L1 + 0.7 x gradient L1 at three scales + 0.7 x L1 of temporal differences, eightfold where a new
latent begins, + 0.05 |E z^2 - 1|. Two more terms make latents *predictable* for the transformer: noise of random
strength on the latents, so that small errors stay small in the picture, and a smoothness penalty on the change of the
latents when the picture moves by up to 3 pixels. Without the penalty a move by a quarter of a cell changed 62 % of a
face's latent variance, and the transformer could not follow a moving head, although the autoencoder reconstructed
well. In the last third an adversarial loss joins (see `adversary.py`); it is switched off when held-out PSNR falls by
more than 0.7 dB.

A decoder draws too little of the detail that the latents do not determine. `--sharpen` compensates with a target a
little sharper than the truth. (A loss on the amount of fine structure in patches of 8 pixels reached even more of the
measured energy, but as single dark pixels in a grid over hair.)

`--only_decoder` continues with the decoder of a finished autoencoder, a checkpoint of this stage or of a model
directory; the encoder is frozen, so this can run beside the teacher.
"""

import argparse
import copy
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.checkpoints.load import load_model
from liveavatar.config import PRESETS
from liveavatar.errors import CheckpointError
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.model.vae_reference import sharpened
from liveavatar.quality import reference
from liveavatar.quality.reference import region_weights, to_video
from liveavatar.timing import LATENT_FRAMES
from liveavatar.training import runtime
from liveavatar.training.adversary import FRAMES, PatchDiscriminator, balanced_gradient, discriminator_loss, face_crops
from liveavatar.training.data import Clips, CropSampler, ShiftedCrops, load_clips, two_crops
from liveavatar.training.optim import Average, Optimisers, rate_factor

log = logging.getLogger(__name__)


GRADIENT_WEIGHT, TEMPORAL_WEIGHT, LATENT_WEIGHT = 0.7, 0.7, 0.05
# Weight of the step into a new latent against the steps within one: noise on the latents, and the transformer's errors,
# jump there, and the decoder should spread the jump over the latent's frames.
EDGE_WEIGHT = 8.0
ADVERSARY_START = 2 / 3  # of the budget
ADVERSARY_ALLOWANCE = 0.7  # dB of held-out PSNR that the adversary may cost
EMA_DECAY = 0.998
HELD_OUT_CLIPS, HELD_OUT_FRAMES = 8, 24
BACKEND = "inductor"  # of compilation


def reconstruction_loss(decoded: Tensor, truth: Tensor, weights_BTHW: Tensor) -> Tensor:
    """Compute the reconstruction loss of videos [B, 3, T, H, W]; weights of mean 1."""
    weights = weights_BTHW[:, None]
    error = decoded - truth
    loss = (error.abs() * weights).mean()
    steps = (error[:, :, 1:] - error[:, :, :-1]).abs() * weights[:, :, 1:] * _edge_weights(error.shape[2], error.device)
    flat, w = error.transpose(1, 2).flatten(0, 1), weights.transpose(1, 2).flatten(0, 1)
    gradient = torch.zeros((), device=decoded.device)
    for scale in range(3):
        if scale:
            flat, w = F.avg_pool2d(flat, 2), F.avg_pool2d(w, 2)
        gradient = gradient + ((flat[..., 1:] - flat[..., :-1]).abs() * w[..., 1:]).mean()
        gradient = gradient + ((flat[..., 1:, :] - flat[..., :-1, :]).abs() * w[..., 1:, :]).mean()
    return loss + GRADIENT_WEIGHT * gradient + TEMPORAL_WEIGHT * steps.mean()


def _edge_weights(num_frames: int, device: torch.device) -> Tensor:
    """Compute the weight of each frame step [1, 1, T-1, 1, 1] of a clip that starts with a latent."""
    edge = (torch.arange(1, num_frames, device=device) % LATENT_FRAMES == 0).float()
    return (1 + (EDGE_WEIGHT - 1) * edge)[None, None, :, None, None]


def _load_start(vae: CompactVAE, model_dir: Path) -> None:
    """Load a model's autoencoder weights; additional decoder blocks start as the identity.

    Latent statistics are in the config, not in the weights.
    """
    start = load_model(model_dir, "cpu", torch.float32, parts=("vae",)).vae
    missing, unexpected = vae.load_state_dict(start.state_dict(), strict=False)
    if unexpected or not all(name.startswith("decoder.stage") for name in missing):
        raise CheckpointError(
            f"{model_dir} holds an autoencoder of other sizes than this run's; name a model of the same preset, "
            "or start without one"
        )


class AutoencoderTrainer:
    """Trainer of the autoencoder: networks, optimisers and data of the stage."""

    def __init__(self, args: argparse.Namespace, rank: runtime.TrainRank) -> None:
        self.args, self.rank = args, rank
        cfg = PRESETS[args.preset].vae
        self.vae = runtime.channels_last(CompactVAE(cfg).to(rank.device))
        if args.init:
            _load_start(self.vae, args.init)
        if args.only_decoder:
            if args.only_decoder.is_dir():
                _load_start(self.vae, args.only_decoder)
            else:
                self.vae.load_state_dict(runtime.load_checkpoint(args.only_decoder, rank.device)["average"])
            self.vae.encoder.requires_grad_(False)
        self.average_vae = copy.deepcopy(self.vae).eval()
        self.adversary = PatchDiscriminator(48 if args.preset == "mini" else 8).to(rank.device)
        self.optim = Optimisers(
            self.vae.named_parameters(),
            muon=args.muon,
            adamw=args.adamw,
            outer=lambda n: n.split(".")[1].startswith("conv_"),
            record=args.graphs,
        )
        self.adversary_optim = torch.optim.AdamW(self.adversary.parameters(), 4e-4, betas=(0.5, 0.9))
        self.average = Average(self.vae, EMA_DECAY)
        self.clips = load_clips(args.data, "train", rank.device, rank.rank, max(rank.world, args.share))
        self.sampler = CropSampler(self.clips, args.frames, rank.generator(args.seed))
        self.held_out_clips = load_clips(args.data, "eval", rank.device) if rank.first else []
        self.step, self.best_psnr = 0, 0.0
        self.adversary_on = bool(args.adversary)
        self.encode, self.decode, self.judge = self.vae.encode, self.vae.decode, reconstruction_loss

    def compile(self) -> None:
        """Compile encoder, decoder and loss, and run them once; on failure training continues uncompiled."""
        plain = self.encode, self.decode, self.judge
        self.encode, self.decode, self.judge = (torch.compile(f, backend=BACKEND, dynamic=False) for f in plain)
        try:
            batch = self._batch()
            decoded, _, unsteady = self._reconstruct(batch)
            output = decoded.detach().float().requires_grad_()
            target = sharpened(batch.video, self.args.sharpen)
            gradient = torch.autograd.grad(self.judge(output, target, batch.weights), output)[0]
            outputs, gradients = _roots(decoded, gradient, unsteady)
            torch.autograd.grad(outputs, self.optim.params, gradients)
        except (RuntimeError, AssertionError, TypeError, ValueError) as e:
            log.warning("the autoencoder is not compiled: %s", (str(e) or repr(e)).splitlines()[0])
            self.encode, self.decode, self.judge = plain

    def _batch(self) -> ShiftedCrops:
        crops = self.sampler.sample(self.args.batch)
        video, moved = two_crops(crops.video, self.sampler.host)
        weights = crops.weights[..., : video.shape[-2], : video.shape[-1]]
        # A part of the batch is enough for the penalty.
        return ShiftedCrops(video, moved[: (len(moved) + 1) // 2], weights / weights.mean(), crops.mouths)

    def _reconstruct(self, batch: ShiftedCrops) -> tuple[Tensor, Tensor, Tensor]:
        """Decode noised latents; return the video, the latents, and their mean square change when the picture moves."""
        video, moved = batch.video, batch.moved
        with self.rank.autocast():
            if self.args.only_decoder:
                with torch.no_grad():
                    latents = other = self.encode(video)
            else:
                latents, other = self.encode(torch.cat((video, moved))).split((len(video), len(moved)))
            strength = self.args.latent_noise * torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
            decoded = self.decode(latents + strength * torch.randn_like(latents))
        return decoded, latents, (other - latents[: len(other)]).float().square().mean()

    def train_step(self, fraction: float) -> dict[str, Tensor]:
        """Update the autoencoder once, and the adversary when it is on."""
        batch = self._batch()
        decoded, latents, unsteady = self._reconstruct(batch)
        output = decoded.detach().float().requires_grad_()
        target = sharpened(batch.video, self.args.sharpen)
        use_adversary = self.adversary_on and fraction > ADVERSARY_START
        # Balancing retains the loss's graph, which compiled code does not allow.
        loss = (reconstruction_loss if use_adversary else self.judge)(output, target, batch.weights)
        gradient, extra = (
            self._adversarial_gradient(loss, output, batch)
            if use_adversary
            else (torch.autograd.grad(loss, output)[0], {})
        )
        regular = LATENT_WEIGHT * (latents.float().square().mean() - 1).abs() + self.args.smooth * unsteady
        torch.autograd.backward(*_roots(decoded, gradient, regular))
        runtime.average_gradients(self.optim.params, self.rank)
        norm = self.optim.step(rate_factor(self.step, fraction))
        self.average.update(self.vae, self.step)
        self.step += 1
        values = {"loss": loss.detach(), "unsteady": unsteady.detach(), "grad_norm": norm}
        return values | {"latent_std": latents.detach().float().std()} | extra

    def _adversarial_gradient(
        self, loss: Tensor, output: Tensor, batch: ShiftedCrops
    ) -> tuple[Tensor, dict[str, Tensor]]:
        side = batch.video.shape[-1] // 2
        times = torch.randperm(batch.video.shape[2])[:FRAMES].tolist()
        real, generated = (face_crops(v, batch.mouths, side, times) for v in (batch.video, output))
        with self.rank.autocast():
            adversary_loss = discriminator_loss(self.adversary, real, generated.detach())
        self.adversary_optim.zero_grad(set_to_none=True)
        adversary_loss.backward()
        runtime.average_gradients(list(self.adversary.parameters()), self.rank)
        self.adversary_optim.step()
        for p in self.adversary.parameters():
            p.requires_grad_(False)
        with self.rank.autocast():
            generator_loss = -self.adversary(generated).mean()
        gradient = balanced_gradient(loss, generator_loss, output)
        for p in self.adversary.parameters():
            p.requires_grad_(True)
        return gradient, {"adversary": adversary_loss.detach()}

    def held_out(self) -> dict[str, float]:
        """Measure the averaged weights on held-out clips: PSNR whole and mouth, sharpness and block edges."""
        self.average.copy_to(self.average_vae)
        return autoencoder_measures(self.average_vae, self.held_out_clips, self.rank)

    def guard(self, psnr: float) -> None:
        """Switch the adversary off when it costs too much."""
        if self.adversary_on and psnr < self.best_psnr - ADVERSARY_ALLOWANCE:
            self.adversary_on = False
            log.warning("adversary off: held-out PSNR fell from %.2f to %.2f dB", self.best_psnr, psnr)
        self.best_psnr = max(self.best_psnr, psnr)

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
        self.step, self.best_psnr = state["step"], state["best_psnr"]
        self.adversary_on = state["adversary_on"]


def _roots(decoded: Tensor, gradient: Tensor, regular: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
    """List the roots of the backward pass and their gradients; with a frozen encoder there is no regular term."""
    if regular.requires_grad:
        return [decoded, regular], [gradient.to(decoded.dtype), None]
    return [decoded], [gradient.to(decoded.dtype)]


@torch.no_grad()
def autoencoder_measures(vae: CompactVAE, held_out: list[Clips], rank: runtime.TrainRank) -> dict[str, float]:
    """Measure an autoencoder on held-out clips, averaged over orientations."""
    rows = []
    for clips in held_out:
        for i in range(min(HELD_OUT_CLIPS, len(clips.frames))):
            count = min(HELD_OUT_FRAMES, clips.num_frames) // LATENT_FRAMES * LATENT_FRAMES
            truth = to_video(clips.frames[i : i + 1, :count])
            with rank.autocast():
                decoded = vae.decode(vae.encode(truth)).float()
            mouth = region_weights(clips.landmarks[i : i + 1, :count], clips.size, 1.0, 0.0, 0.0)
            rows.append(
                torch.tensor(
                    [
                        reference.psnr(decoded, truth),
                        reference.psnr(decoded, truth, mouth),
                        reference.energy_kept(decoded, truth),
                        reference.energy_kept(decoded, truth, mouth),
                        reference.mean_edge_jump(decoded) / max(reference.mean_edge_jump(truth), 1e-6),
                        reference.mean_edge_jump(decoded, LATENT_FRAMES)
                        / max(reference.mean_edge_jump(truth, LATENT_FRAMES), 1e-6),
                    ]
                )
            )
    names = ("ae_psnr", "ae_psnr_mouth", "ae_energy", "ae_energy_mouth", "ae_edge_jump", "ae_latent_jump")
    return dict(zip(names, torch.stack(rows).mean(0).tolist(), strict=True))


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Run the stage until its time budget is used up."""
    trainer = AutoencoderTrainer(args, rank)
    path = args.out / "autoencoder.pt"
    budget = runtime.resume(trainer, path, args, rank)
    journal = runtime.JsonLog(args.out / "autoencoder.jsonl", rank)
    if args.compile:
        trainer.compile()
    saver = runtime.Saver(path, trainer, budget, args.save_every)
    runtime.run_steps(
        trainer, saver, journal, args, 5, lambda row: _share_guard(trainer, row.get("ae_psnr", 0.0), rank)
    )


def _share_guard(trainer: AutoencoderTrainer, psnr: float, rank: runtime.TrainRank) -> None:
    value = torch.tensor(psnr, device=rank.device)
    shared = float(rank.mean(value)) * rank.world  # only rank 0 measures
    if shared > 0:
        trainer.guard(shared)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = runtime.loop_arguments("train the autoencoder")
    options.add_argument("--seconds", type=float, default=420)
    options.add_argument("--batch", type=int, default=16, help="clips a GPU")
    options.add_argument("--frames", type=int, default=16, help="frames a clip")
    options.add_argument("--muon", type=float, default=0.01, help="rate of the convolutions")
    options.add_argument("--adamw", type=float, default=1e-3, help="rate of everything else")
    options.add_argument("--adversary", type=int, default=1)
    options.add_argument("--latent_noise", type=float, default=0.3, help="largest noise on the latents")
    options.add_argument("--sharpen", type=float, default=0.0, help="strength of the unsharp mask on the target")
    options.add_argument("--smooth", type=float, default=0.2, help="weight of the latents' change under small moves")
    options.add_argument("--init", type=Path, help="model directory whose autoencoder to start from")
    options.add_argument("--only_decoder", type=Path, help="model directory or autoencoder.pt whose encoder stays")
    options.add_argument("--share", type=int, default=1, help="in one process: train on every n-th file of clips")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
