"""Encode stage: latents, region weights and speech features of clips, and windows of them to train on.

The encode stage (`python -m liveavatar.training.latents`) runs once after the autoencoder: every rank encodes its
clips three times (plain; flipped with other colours; bent with other colours) and a share of the speech tracks (plain,
and with other microphones and rooms). All of it is stored on the GPU, and a training batch is a gather. The probe for
held-out video is trained here too, while the clips are loaded.

In a share of the windows the reference is the clip's other photo, with a caption that names the clip's light and
place. With photos that always look like the clip, the network would learn to copy light and place and ignore the
prompt.

Shapes: n clips, B batch, C latent channels, T latents, h/w latent cells, L speech states, F feature frames.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from liveavatar.audio.encoders.whisper_network import load_encoder
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model
from liveavatar.config import FROM_PORTRAIT, PRESETS, ModelConfig
from liveavatar.model.text import tokenize_batch
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.pose.track import EYES, HEAD, latent_track, mirrored, mirrored_eyes, pose_latents
from liveavatar.quality.reference import face_ellipse, region_weights, to_video
from liveavatar.timing import BLOCK_LATENTS, LATENT_FRAMES
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.data import Clips, bend, colour_jitter, load_clips
from liveavatar.training.face_reader import reading_skill, save_face_reader, train_face_reader
from liveavatar.training.face_values import mouth_track
from liveavatar.training.features import FeatureBank, speech_features
from liveavatar.training.latent_set import LatentSet, join, save_latents
from liveavatar.training.probe import train_probe

log = logging.getLogger(__name__)

AUGMENTATIONS = 3
MOUTH_WEIGHT, EYE_WEIGHT = 5.0, 3.5  # of the flow loss, averaged to latent cells
FACE_WEIGHT = 1.5  # for likeness in turned faces; at 2.5 the backdrop got worse
OTHER_PHOTO_SHARE = 0.35  # of the training windows
ENCODE_CLIPS = 8  # clips encoded together


class WindowSampler:
    """Sampler of random windows of a fixed number of blocks; one orientation per batch."""

    def __init__(self, sets: list[LatentSet], bank: FeatureBank, num_blocks: int, generator: torch.Generator) -> None:
        self.sets, self.bank, self.generator = sets, bank, generator
        self.num_blocks = min(num_blocks, *(s.latents.shape[2] // BLOCK_LATENTS for s in sets))
        counts = torch.tensor([float(len(s.latents)) for s in sets])
        self.shares = counts / counts.sum()
        self.host = torch.Generator().manual_seed(generator.initial_seed())

    def sample(self, batch: int) -> Window:
        """Draw a batch of windows."""
        data = self.sets[int(torch.multinomial(self.shares, 1, generator=self.host))]
        device = data.latents.device
        clips = torch.randint(len(data.latents), (batch,), device=device, generator=self.generator)
        room = data.latents.shape[2] // BLOCK_LATENTS - self.num_blocks + 1
        starts = torch.randint(room, (batch,), device=device, generator=self.generator)
        recordings = torch.randint(len(self.bank.starts), (batch,), device=device, generator=self.generator)
        other = torch.rand(batch, device=device, generator=self.generator) < OTHER_PHOTO_SHARE
        return cut_window(data, self.bank, clips, starts, self.num_blocks, recordings, other)


def cut_window(
    data: LatentSet,
    bank: FeatureBank,
    clips: Tensor,
    starts: Tensor,
    num_blocks: int,
    recordings: Tensor | None = None,
    other: Tensor | None = None,
) -> Window:
    """Cut `num_blocks` blocks from `starts` [B] on out of clips number `clips` [B].

    `recordings` [B] selects recordings of the speech (None: the original); where `other` [B] is true, the reference is
    the other photo.
    """
    times = starts[:, None] * BLOCK_LATENTS + torch.arange(num_blocks * BLOCK_LATENTS, device=starts.device)
    weights = data.weights[clips[:, None], times].float()[:, None]
    reference, tokens, bound = data.reference[clips], data.tokens[clips], None
    h, w = data.latents.shape[-2:]
    if other is not None:
        photo = data.other[clips]
        bound = other & (photo != reference).flatten(1).any(1)
        reference = torch.where(bound[:, None, None, None, None], photo, reference)
        tokens = torch.where(bound[:, None], data.other_tokens[clips], tokens)
    return Window(
        data.latents.transpose(1, 2)[clips[:, None], times].transpose(1, 2).float(),
        reference.float(),
        weights / weights.mean(),
        bank.window(data.tracks[clips], data.blocks[clips] + starts, num_blocks, recordings),
        tokens,
        pose_latents(data.head[clips[:, None], times], h, w, data.eyes[clips[:, None], times], HEAD + EYES),
        bound,
    )


@torch.no_grad()
def encode_clips(clips: Clips, vae: CompactVAE, cfg: ModelConfig, rank: runtime.TrainRank, augment: int) -> LatentSet:
    """Encode every clip under augmentation 0 (none), 1 (flip and colours) or 2 (bend and colours)."""
    generator = rank.generator(100 + augment)
    latents, reference, other, weights = [], [], [], []
    for start in range(0, len(clips.frames), ENCODE_CLIPS):
        part = slice(start, start + ENCODE_CLIPS)
        # The other photo comes last, so that it gets the same colour jitter as the clip.
        frames, photos = clips.frames[part], clips.others[part]
        has_other = (photos != frames[:, -1]).flatten(1).any(1)[:, None, None, None, None]
        video = to_video(torch.cat([frames, photos[:, None]], 1))
        maps = region_weights(clips.landmarks[part, :-1], clips.size, MOUTH_WEIGHT, EYE_WEIGHT)
        maps = maps.maximum(FACE_WEIGHT * face_ellipse(clips.landmarks[part, :-1], clips.size))
        if augment:
            video = colour_jitter(video, generator)
        if augment == 1:
            video, maps = video.flip(-1), maps.flip(-1)
        elif augment == 2:
            video, maps = bend(video, maps, generator)
        z = vae.encode(video[:, :, :-2])
        still, other_still = (
            vae.encode(video[:, :, t, None].expand(-1, -1, LATENT_FRAMES, -1, -1)).half() for t in (-2, -1)
        )
        cells = F.avg_pool2d(maps, cfg.vae.spatial_stride).unflatten(1, (-1, LATENT_FRAMES)).mean(2)
        latents.append(z.half())
        reference.append(still)
        other.append(torch.where(has_other, other_still, still))
        weights.append(cells.half())
    tokens, other_tokens = (
        tokenize_batch(c, cfg.text).to(clips.tracks.device) for c in (clips.captions, clips.other_captions)
    )
    origin = clips.head[:, -1:] if cfg.pose_origin == FROM_PORTRAIT else 0.0  # both photos of a clip have one pose
    head = latent_track(clips.head[:, :-1] - origin)
    eyes = latent_track(clips.eyes[:, :-1])
    if augment == 1:
        head, eyes = mirrored(head), mirrored_eyes(eyes)
    return LatentSet(
        torch.cat(latents), torch.cat(reference), torch.cat(weights), head, eyes, mouth_track(clips.landmarks[:, :-1]),
        clips.tracks, clips.blocks, tokens, torch.cat(other), other_tokens,
    )  # fmt: skip


def channel_statistics(sets: list[LatentSet], rank: runtime.TrainRank) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of every latent channel over all ranks."""
    sums = torch.stack([torch.stack(_moments(s.latents)) for s in sets]).sum(0)  # [3, C]
    if rank.world > 1:
        dist.all_reduce(sums)
    mean = sums[1] / sums[0]
    std = (sums[2] / sums[0] - mean**2).clamp(min=1e-6).sqrt()
    return tuple(mean.float().tolist()), tuple(std.float().tolist())


def _moments(z_nCThw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.full((z_nCThw.shape[1],), z_nCThw[:, 0].numel(), dtype=torch.float64, device=z_nCThw.device)
    first, second = torch.zeros_like(count), torch.zeros_like(count)
    for part in z_nCThw.split(256):
        wide = part.double() if part.device.type == "cpu" else part.float()
        first += wide.sum((0, 2, 3, 4)).double()
        second += wide.square().sum((0, 2, 3, 4)).double()
    return count, first, second


def normalised(sets: list[LatentSet], cfg: ModelConfig) -> list[LatentSet]:
    """Normalise raw latents to mean 0 and deviation 1 per channel."""
    out = []
    for s in sets:
        mean, std = (torch.tensor(v, device=s.latents.device).view(1, -1, 1, 1, 1) for v in (cfg.vae.mean, cfg.vae.std))
        z = torch.cat([((part.float() - mean) / std).half() for part in s.latents.split(256)])
        reference, other = (((still.float() - mean) / std).half() for still in (s.reference, s.other))
        out.append(replace(s, latents=z, reference=reference, other=other))
    return out


def _autoencoder(args: argparse.Namespace, cfg: ModelConfig, rank: runtime.TrainRank) -> CompactVAE:
    """Load the autoencoder, whose latents are not normalised; one of a model directory is also written to the run."""
    vae = CompactVAE(cfg.vae).to(rank.device).eval()
    if args.model is None:
        path = (args.autoencoder or args.out) / "autoencoder.pt"
        weights = runtime.load_checkpoint(path, rank.device)["average"]
    else:
        weights = load_model(args.model, rank.device, torch.float32, parts=("vae",)).vae.state_dict()
        if rank.first:
            runtime.save_checkpoint(args.out / "autoencoder.pt", {"average": weights})
    vae.load_state_dict(weights)
    return vae


def encode_stage(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Encode speech and clips; write `features_*`, `latents_*` and the config with latent statistics to `args.out`."""
    cfg = replace(PRESETS[args.preset], pose_origin=FROM_PORTRAIT)
    out: Path = args.out
    if args.speech_tuning is not None:  # as `export` has it
        cfg = replace(cfg, speech=replace(cfg.speech, shifts=(0,)))
    for split in ("train", "eval"):
        path = out / f"features_{split}_{rank.rank}.pt"
        if not path.exists():
            encoder = load_encoder(args.speech_encoder, rank.device, args.speech_tuning)
            features = speech_features(args.speech, split, cfg.speech, encoder, rank)
            runtime.save_checkpoint(path, features)
    if args.only_speech:
        return
    if args.model is not None:
        # Latents are normalised once, below.
        cfg = replace(cfg, vae=replace(read_config(args.model).vae, mean=cfg.vae.mean, std=cfg.vae.std))
    vae = _autoencoder(args, cfg, rank)
    runtime.channels_last(vae)
    if rank.device.type == "cuda":
        vae.bfloat16()  # like autocast, without its fp32 norms and copies
    clips = load_clips(args.data, "train", rank.device, rank.rank, rank.world)
    train = [join([encode_clips(c, vae, cfg, rank, k) for k in range(AUGMENTATIONS)]) for c in clips]
    mean, std = channel_statistics(train, rank)
    if (model := args.statistics or args.model) is not None:
        stored = read_config(model).vae
        mean, std = stored.mean, stored.std
    cfg = replace(cfg, vae=replace(cfg.vae, mean=mean, std=std))
    train = normalised(train, cfg)
    save_latents(out / f"latents_train_{rank.rank}.pt", train)
    reader = train_face_reader(train, rank, args.reader_seconds)
    probe = train_probe(clips, rank, args.probe_seconds)
    if rank.first:
        runtime.save_checkpoint(out / "probe.pt", probe.state_dict())
        eval_clips = load_clips(args.data, "eval", rank.device)
        held_out = normalised([encode_clips(c, vae, cfg, rank, 0) for c in eval_clips], cfg)
        save_latents(out / "latents_eval_0.pt", held_out)
        save_face_reader(out, reader)
        log.info("read off held-out latents: %s", reading_skill(reader, held_out))
        (out / "config.json").write_text(cfg.to_json())
    rank.barrier()


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = runtime.arguments("encode clips and speech for the transformer")
    options.add_argument("--speech", type=Path, required=True, help="folder of speech.json")
    options.add_argument("--autoencoder", type=Path, help="folder of autoencoder.pt; --out when absent")
    options.add_argument("--model", type=Path, help="model directory whose autoencoder and latent statistics to keep")
    options.add_argument(
        "--only_speech", action="store_true", help="stop after the features, which need no autoencoder"
    )
    options.add_argument(
        "--statistics", type=Path, help="model directory whose latent statistics to use; the model of `teacher --init`"
    )
    options.add_argument("--reader_seconds", type=float, default=12, help="training time of the face reader")
    options.add_argument("--probe_seconds", type=float, default=12, help="training time of the probe")
    options.add_argument("--speech_encoder", default="tiny.en", help="Whisper name, or a file of its encoder")
    options.add_argument("--speech_tuning", type=Path, help="file of its corrections, from `speech_tuning`")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the encode stage."""
    runtime.run_stage(parser(), encode_stage, argv)


if __name__ == "__main__":
    main()
