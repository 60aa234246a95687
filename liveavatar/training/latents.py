"""From clips to what the transformer trains on: latents, region weights, speech features, and windows of them.

The encode stage (`python -m liveavatar.training.latents`) runs once after the autoencoder: every rank encodes its
clips three times (plain; flipped with other colours; other colours) and a share of the speech tracks (plain, and as
other microphones and rooms would have recorded them). All of it then lies on the GPU, and a training batch is a
gather. The probe that judges held-out video is trained here too, while the clips are loaded.

Shapes: n clips, B batch, C latent channels, T latents, h/w latent cells, L speech states, F feature frames.
"""

import argparse
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from liveavatar.audio.features import load_encoder, whisper_features
from liveavatar.config import PRESETS, ModelConfig, SpeechConfig
from liveavatar.model.text import tokenize_batch
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.pose import latent_track, mirrored, pose_latents
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, LATENT_FRAMES
from liveavatar.training import runtime
from liveavatar.training.corpus.layout import SPEEDS
from liveavatar.training.corpus.sound import other_recording
from liveavatar.training.corpus.tracks import load_tracks
from liveavatar.training.data import Clips, colour_jitter, load_clips, region_weights, to_video
from liveavatar.training.probe import train_probe
from liveavatar.training.window import Window

log = logging.getLogger(__name__)

AUGMENTATIONS = 3
RECORDINGS = 3  # of every training track: as it is, and with another tone, room and noise
MOUTH_WEIGHT, EYE_WEIGHT = 5.0, 2.0  # of the flow loss, averaged to latent cells
SOUND_THREADS = 4
ENCODE_CLIPS = 8  # clips encoded together


@dataclass(slots=True)
class LatentSet:
    """Encoded clips of one orientation; latents are normalised, fp16."""

    latents: Tensor  # [n, C, T, h, w]
    reference: Tensor  # [n, C, 1, h, w]
    weights: Tensor  # [n, T, h, w]
    head: Tensor  # [n, T, 3] mean yaw, pitch, roll of each latent, radians
    tracks: Tensor  # [n]
    blocks: Tensor  # [n]
    tokens: Tensor  # [n, text length]

    def to(self, device: torch.device) -> "LatentSet":
        """Move every tensor."""
        return LatentSet(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))

    def tensors(self) -> dict[str, Tensor]:
        """As a plain dict, for saving."""
        return {f: getattr(self, f) for f in self.__dataclass_fields__}


class FeatureBank:
    """Speech features of all tracks of a split, one frame a row, each track led by repeats of its first frame.

    `starts` [recordings, tracks] are the rows at which the tracks begin.
    """

    def __init__(self, rows_FLC: Tensor, starts: Tensor, history: int) -> None:
        self.rows, self.starts, self.history = rows_FLC, starts, history

    def window(self, tracks_B: Tensor, blocks_B: Tensor, num_blocks: int, recordings_B: Tensor | None = None) -> Tensor:
        """Features [B, L, C, history + 12 * num_blocks] that drive blocks `blocks_B`... of `tracks_B`.

        They are of the tracks as they are, unless `recordings_B` says of which recording.
        """
        recordings = torch.zeros_like(tracks_B) if recordings_B is None else recordings_B
        first = self.starts[recordings, tracks_B] + blocks_B * BLOCK_FRAMES
        span = torch.arange(self.history + num_blocks * BLOCK_FRAMES, device=first.device)
        return self.rows[(first[:, None] + span).clamp(max=len(self.rows) - 1)].permute(0, 2, 3, 1).float()


class WindowSampler:
    """Random windows of a fixed number of blocks; one orientation a batch."""

    def __init__(self, sets: list[LatentSet], bank: FeatureBank, num_blocks: int, generator: torch.Generator) -> None:
        self.sets, self.bank, self.generator = sets, bank, generator
        self.num_blocks = min(num_blocks, *(s.latents.shape[2] // BLOCK_LATENTS for s in sets))
        counts = torch.tensor([float(len(s.latents)) for s in sets])
        self.shares = counts / counts.sum()
        self.host = torch.Generator().manual_seed(generator.initial_seed())

    def sample(self, batch: int) -> Window:
        """Draw a batch."""
        data = self.sets[int(torch.multinomial(self.shares, 1, generator=self.host))]
        device = data.latents.device
        clips = torch.randint(len(data.latents), (batch,), device=device, generator=self.generator)
        room = data.latents.shape[2] // BLOCK_LATENTS - self.num_blocks + 1
        starts = torch.randint(room, (batch,), device=device, generator=self.generator)
        recordings = torch.randint(len(self.bank.starts), (batch,), device=device, generator=self.generator)
        return cut_window(data, self.bank, clips, starts, self.num_blocks, recordings)


def cut_window(
    data: LatentSet,
    bank: FeatureBank,
    clips: Tensor,
    starts: Tensor,
    num_blocks: int,
    recordings: Tensor | None = None,
) -> Window:
    """Blocks `starts`...`starts + num_blocks` of the given clips, heard as they are unless `recordings` are given."""
    times = starts[:, None] * BLOCK_LATENTS + torch.arange(num_blocks * BLOCK_LATENTS, device=starts.device)
    weights = data.weights[clips[:, None], times].float()[:, None]
    return Window(
        data.latents.transpose(1, 2)[clips[:, None], times].transpose(1, 2).float(),
        data.reference[clips].float(),
        weights / weights.mean(),
        bank.window(data.tracks[clips], data.blocks[clips] + starts, num_blocks, recordings),
        data.tokens[clips],
        pose_latents(data.head[clips[:, None], times], *data.latents.shape[-2:]),
    )


@torch.no_grad()
def encode_clips(clips: Clips, vae: CompactVAE, cfg: ModelConfig, rank: runtime.Rank, augment: int) -> LatentSet:
    """Encode every clip under augmentation 0 (none), 1 (flip and colours) or 2 (colours)."""
    generator = rank.generator(100 + augment)
    latents, reference, weights = [], [], []
    for start in range(0, len(clips.frames), ENCODE_CLIPS):
        part = slice(start, start + ENCODE_CLIPS)
        video = to_video(clips.frames[part])
        maps = region_weights(clips.landmarks[part, :-1], clips.size, MOUTH_WEIGHT, EYE_WEIGHT)
        if augment:
            video = colour_jitter(video, generator)
        if augment == 1:
            video, maps = video.flip(-1), maps.flip(-1)
        z = vae.encode(video[:, :, :-1])
        still = vae.encode(video[:, :, -1:].expand(-1, -1, LATENT_FRAMES, -1, -1))
        cells = F.avg_pool2d(maps, cfg.vae.spatial_stride).unflatten(1, (-1, LATENT_FRAMES)).mean(2)
        latents.append(z.half())
        reference.append(still.half())
        weights.append(cells.half())
    tokens = tokenize_batch(clips.captions, cfg.text).to(clips.tracks.device)
    head = latent_track(clips.head[:, :-1])
    return LatentSet(
        torch.cat(latents), torch.cat(reference), torch.cat(weights), mirrored(head) if augment == 1 else head,
        clips.tracks, clips.blocks, tokens,
    )  # fmt: skip


def _join(sets: list[LatentSet]) -> LatentSet:
    return LatentSet(*(torch.cat([getattr(s, f) for s in sets]) for f in LatentSet.__dataclass_fields__))


def channel_statistics(sets: list[LatentSet], rank: runtime.Rank) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every latent channel over all ranks."""
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


def speech_features(
    speech: Path, split: str, cfg: SpeechConfig, encoder_file: str, rank: runtime.Rank
) -> dict[int, Tensor]:
    """Features [F, L, C] fp16 of this rank's share of the tracks of a split.

    Recording r of track i has the key r * number of tracks + i; held-out tracks have one recording.
    """
    tracks = load_tracks(speech, split, SPEEDS if split == "train" else (1.0,))  # sound is decoded when touched
    keys = range(rank.rank, len(tracks) * (RECORDINGS if split == "train" else 1), rank.world)
    encoder = load_encoder(encoder_file, rank.device)
    batch = 256 if rank.device.type == "cuda" else 16

    def sound(key: int) -> np.ndarray:
        recording, track = divmod(key, len(tracks))
        plain = tracks[track].audio
        return other_recording(plain, np.random.default_rng([recording, track])) if recording else plain

    with ThreadPoolExecutor(SOUND_THREADS) as pool:  # sounds are made beside what the GPU computes
        return {
            key: whisper_features(
                audio, cfg, device=rank.device, whisper_encoder=encoder, batch=batch, dtype=torch.float16
            ).permute(2, 0, 1)
            for key, audio in zip(keys, pool.map(sound, keys), strict=True)
        }


def load_bank(folder: Path, split: str, history: int, device: torch.device) -> FeatureBank:
    """Join the features that all ranks wrote."""
    recordings = RECORDINGS if split == "train" else 1
    tracks: dict[int, Tensor] = {}
    for file in sorted(folder.glob(f"features_{split}_*.pt")):
        tracks |= torch.load(file, map_location="cpu", weights_only=True)
    rows, starts, at = [], [], 0
    for i in range(max(tracks) + 1):
        track = tracks[i]
        starts.append(at)
        rows += [track[:1].expand(history, -1, -1), track]
        at += history + len(track)
    return FeatureBank(torch.cat(rows).to(device), torch.tensor(starts, device=device).view(recordings, -1), history)


def load_latents(folder: Path, split: str, device: torch.device, rank: int = 0) -> list[LatentSet]:
    """The latents one rank wrote, one set per orientation."""
    saved = torch.load(folder / f"latents_{split}_{rank}.pt", map_location=device, weights_only=True)
    return [LatentSet(**s) for s in saved["sets"]]


def normalised(sets: list[LatentSet], cfg: ModelConfig) -> list[LatentSet]:
    """Raw latents brought to mean 0 and deviation 1 per channel."""
    out = []
    for s in sets:
        mean, std = (torch.tensor(v, device=s.latents.device).view(1, -1, 1, 1, 1) for v in (cfg.vae.mean, cfg.vae.std))
        z = torch.cat([((part.float() - mean) / std).half() for part in s.latents.split(256)])
        out.append(replace(s, latents=z, reference=((s.reference.float() - mean) / std).half()))
    return out


def encode_stage(args: argparse.Namespace, rank: runtime.Rank) -> None:
    """Encode speech and clips; write `features_*`, `latents_*` and the config with latent statistics to `args.out`."""
    cfg = PRESETS[args.preset]
    out: Path = args.out
    for split in ("train", "eval"):
        path = out / f"features_{split}_{rank.rank}.pt"
        if not path.exists():
            features = speech_features(args.speech, split, cfg.speech, args.speech_encoder, rank)
            runtime.save_checkpoint(path, features)
    if args.only_speech:
        return
    vae = CompactVAE(cfg.vae).to(rank.device).eval()
    saved = runtime.load_checkpoint(args.autoencoder / "autoencoder.pt", rank.device)
    vae.load_state_dict(saved["average"])
    runtime.channels_last(vae)
    if rank.device.type == "cuda":
        vae.bfloat16()  # as autocast would compute, without its fp32 norms and copies
    clips = load_clips(args.data, "train", rank.device, rank.rank, rank.world)
    train = [_join([encode_clips(c, vae, cfg, rank, k) for k in range(AUGMENTATIONS)]) for c in clips]
    mean, std = channel_statistics(train, rank)
    cfg = replace(cfg, vae=replace(cfg.vae, mean=mean, std=std))
    _save(out / f"latents_train_{rank.rank}.pt", normalised(train, cfg))
    probe = train_probe(clips, rank, args.probe_seconds)
    if rank.first:
        runtime.save_checkpoint(out / "probe.pt", probe.state_dict())
        held = load_clips(args.data, "eval", rank.device)
        _save(out / "latents_eval_0.pt", normalised([encode_clips(c, vae, cfg, rank, 0) for c in held], cfg))
        (out / "config.json").write_text(cfg.to_json())
    rank.barrier()


def _save(path: Path, sets: list[LatentSet]) -> None:
    runtime.save_checkpoint(path, {"sets": [s.tensors() for s in sets]})


def main(argv: list[str] | None = None) -> None:
    """Command line of the encode stage."""
    parser = runtime.arguments("encode clips and speech for the transformer")
    parser.add_argument("--speech", type=Path, required=True, help="folder of speech.json")
    parser.add_argument("--autoencoder", type=Path, help="folder of autoencoder.pt; --out when absent")
    parser.add_argument("--only_speech", action="store_true", help="stop after the features, which need no autoencoder")
    parser.add_argument("--probe_seconds", type=float, default=12, help="training of the judge of held-out video")
    parser.add_argument("--speech_encoder", default="tiny.en", help="Whisper name, or a file of its encoder")
    args: Any = parser.parse_args(argv)
    args.autoencoder = args.autoencoder or args.out
    runtime.run_stage(args, encode_stage)


if __name__ == "__main__":
    main()
