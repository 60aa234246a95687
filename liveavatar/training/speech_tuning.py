"""Tune the speech encoder to mouth shapes: `python -m liveavatar.training.speech_tuning --speech DIR --assets DIR`.

Whisper's encoder was trained to transcribe, and a network that reads mouths off its frozen states knows a new voice
less well than the voices of training. So low-rank corrections of the encoder (`audio.encoders.low_rank`) are trained
together with a small transformer that predicts the openness and the width of the mouth in every frame of a window. The
corrections are written to `OUT/speech.safetensors`, the transformer is thrown away, and `tuning.jsonl` gets the
correlations on the held-out voices.

Shapes: B windows, S samples, F frames, L states of depth, W encoder width, V values of a mouth (openness, width).
"""

import argparse
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from liveavatar.audio.encoders import low_rank
from liveavatar.audio.encoders.whisper_network import WhisperEncoder, load_encoder, mel_filters
from liveavatar.audio.encoders.windows import window_samples
from liveavatar.config import PRESETS, SpeechConfig
from liveavatar.quality import reference
from liveavatar.quality.curves import correlations
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SAMPLES, SAMPLES_PER_FRAME
from liveavatar.training import runtime
from liveavatar.training.corpus.head.geometry import HeadAssets
from liveavatar.training.corpus.head.motion import spoken_mouth
from liveavatar.training.corpus.layout import SPEEDS
from liveavatar.training.corpus.speech.sound import other_recording
from liveavatar.training.corpus.speech.tracks import Track, load_tracks
from liveavatar.training.corpus.speech.visemes import loudness_gain, shape_matrix
from liveavatar.training.features import THROAT
from liveavatar.training.optim import rate_factor

VALUES = ("openness", "width")
RECORDINGS = 2  # of every training track: the original and one with another tone, room and noise
WIDTH, HEADS, DEPTH, DROPOUT = 384, 6, 4, 0.1  # of the transformer
HEAD_RATE, DECAY = 1e-3, 0.02
EARLIER_WEIGHT = 0.1  # of a frame before or after the block, whose features training and renders take
JITTER = 160  # samples by which windows are moved off the frames
THROATS = 17  # vocal tracts, and the share of batches that have another one than the speaker's
THROAT_SHARE = 0.5
CLIP_FRAMES = 192  # of a correlation, as in the evaluation split
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class Sounds:
    """Sounds in a row with silence between them, and the mouth values of their frames."""

    audio_S: Tensor
    values_FV: Tensor
    tracks: Tensor  # [n, 3]: first sample, first frame, number of frames
    engines: list[str]  # synthesisers of the tracks

    def weights(self, balance: float) -> Tensor:
        """Compute the weights [n] by which tracks are drawn.

        Args:
            balance: 0 draws every second of sound as often; 1 gives every synthesiser the same share.
        """
        frames = self.tracks[:, 2].float()
        total = {name: float(frames[[e == name for e in self.engines]].sum()) for name in {*self.engines}}
        return frames / torch.tensor([total[e] ** balance for e in self.engines], device=frames.device)


class MouthReader(nn.Module):
    """Transformer from the states of a window to the standardised mouth values of its frames."""

    def __init__(self, num_states: int, width: int, num_frames: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(num_states))
        self.norm = nn.LayerNorm(2 * width)
        self.enter = nn.Linear(2 * width, WIDTH)
        self.position = nn.Parameter(torch.randn(num_frames, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, DROPOUT, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, len(VALUES))

    def forward(self, states_BL2FW: Tensor) -> Tensor:
        """Return values [B, F, V]."""
        mixed = (states_BL2FW * self.mix.softmax(0)[:, None, None]).sum(1)
        frames = mixed.unflatten(1, (-1, 2)).flatten(2)
        values: Tensor = self.out(self.layers(self.enter(self.norm(frames)) + self.position))
        return values


class Mouths:
    """Mouth values of the neutral head, seen from the front, by expression."""

    def __init__(self, assets: HeadAssets) -> None:
        points = assets.landmarks68
        self.names, self.matrix = assets.expression_names, shape_matrix(assets.expression_names)
        self._rest, self._moves = assets.vertices[points].cpu(), assets.expression[:, points].cpu()

    def values(self, track: Track) -> Tensor:
        """Compute the values [F, V] of a track's whole blocks."""
        num_frames = len(track.audio) // SAMPLES_PER_FRAME // BLOCK_FRAMES * BLOCK_FRAMES
        gain = loudness_gain(track.audio, len(track.audio) // SAMPLES_PER_FRAME)
        expression = spoken_mouth(track.events, gain, self.names, self.matrix)[:num_frames]
        landmarks = self._rest + torch.einsum("fk,kpc->fpc", torch.from_numpy(expression), self._moves)
        return torch.stack((reference.openness(landmarks[..., :2]), reference.mouth_width(landmarks[..., :2])), -1)


def gather_sounds(tracks: list[Track], recordings: int, mouths: Mouths, window: int, device: torch.device) -> Sounds:
    """Load tracks and their other recordings; around each lie `window` samples of silence."""

    def load(number: int) -> tuple[np.ndarray, Tensor]:
        track = tracks[number % len(tracks)]
        values = mouths.values(track)
        audio = track.audio[: len(values) * SAMPLES_PER_FRAME]
        if number >= len(tracks):
            audio = other_recording(audio, np.random.default_rng([1, number]))
        return audio, values

    silence, sounds, values, rows, samples, frames = np.zeros(window, np.float32), [], [], [], 0, 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for audio, mouth in pool.map(load, range(recordings * len(tracks))):
            sounds += [silence, audio]
            values.append(mouth)
            rows.append((samples + window, frames, len(mouth)))
            samples, frames = samples + window + len(audio), frames + len(mouth)
    joined = torch.from_numpy(np.concatenate([*sounds, silence]))
    engines = [track.info.voice.partition(":")[0] for track in tracks] * recordings
    return Sounds(joined.to(device), torch.cat(values).to(device), torch.tensor(rows, device=device), engines)


class Tuning:
    """Trainer of the corrections and of the mouth reader."""

    def __init__(self, args: argparse.Namespace, cfg: SpeechConfig, sounds: Sounds, rank: runtime.TrainRank) -> None:
        self.args, self.sounds, self.rank = args, sounds, rank
        self.window, self.lookahead = window_samples(cfg)
        self.encoder: WhisperEncoder = load_encoder(args.speech_encoder, rank.device)
        self.after = self.lookahead // SAMPLES_PER_FRAME  # frames of a window after the block
        width = self.encoder.positional_embedding.shape[1]
        self.reader = MouthReader(self.encoder.num_states, width, self.window // SAMPLES_PER_FRAME).to(rank.device)
        corrections = low_rank.attach(self.encoder, args.rank)
        self.params = [*self.reader.parameters(), *corrections]
        self.optim = torch.optim.AdamW(
            [{"params": list(self.reader.parameters()), "top": HEAD_RATE}, {"params": corrections, "top": args.rate}],
            HEAD_RATE, betas=(0.9, 0.98), weight_decay=DECAY,
        )  # fmt: skip
        self.weights = sounds.weights(args.balance)
        self.mean, self.std = sounds.values_FV.mean(0), sounds.values_FV.std(0)
        mels = len(self.encoder.mel_filters)
        self.filters = [
            torch.from_numpy(mel_filters(mels, math.exp(x))).to(rank.device)
            for x in np.linspace(-THROAT, THROAT, THROATS)
        ]
        self.step = 0
        self.generator, self.host = rank.generator(args.seed + 1), np.random.default_rng([args.seed, rank.rank])

    def train_step(self, fraction: float) -> dict[str, Tensor]:
        """Update corrections and reader once, on windows of random tracks."""
        device, tracks = self.rank.device, self.sounds.tracks
        pick = torch.multinomial(self.weights, self.args.batch, True, generator=self.generator)
        sample, frame, count = tracks[pick].unbind(1)
        block = (torch.rand(len(pick), device=device, generator=self.generator) * (count - BLOCK_FRAMES + 1)).long()
        starts = sample + (block + BLOCK_FRAMES) * SAMPLES_PER_FRAME + self.lookahead - self.window
        moved = torch.randint(-JITTER, JITTER + 1, starts.shape, device=device, generator=self.generator)
        other = self.host.random() < THROAT_SHARE
        self.encoder.mel_filters = self.filters[int(self.host.integers(THROATS)) if other else THROATS // 2]
        predicted = self._read((starts + moved).clamp(min=0))
        num_frames = predicted.shape[1]
        index = (block + BLOCK_FRAMES + self.after - num_frames)[:, None] + torch.arange(num_frames, device=device)
        inside = (index >= 0) & (index < count[:, None])
        rows = frame[:, None] + index.clamp(min=0).minimum(count[:, None] - 1)
        wanted = (self.sounds.values_FV[rows] - self.mean) / self.std
        weight = torch.full((num_frames,), EARLIER_WEIGHT, device=device)
        weight[self._block] = 1
        weights = (weight * inside)[..., None]
        loss = ((predicted - wanted).square() * weights).sum() / weights.sum() / len(VALUES)
        self.optim.zero_grad(set_to_none=True)
        loss.backward()
        runtime.average_gradients(self.params, self.rank)
        nn.utils.clip_grad_norm_(self.params, LARGEST_GRADIENT)
        for group in self.optim.param_groups:
            group["lr"] = group["top"] * rate_factor(self.step, fraction)
        self.optim.step()
        self.step += 1
        return {"loss": loss.detach()}

    @property
    def _block(self) -> slice:
        end = self.window // SAMPLES_PER_FRAME - self.after
        return slice(end - BLOCK_FRAMES, end)

    def _read(self, starts_B: Tensor, sounds: Sounds | None = None) -> Tensor:
        audio = (sounds or self.sounds).audio_S
        windows = audio[starts_B[:, None] + torch.arange(self.window, device=self.rank.device)]
        with self.rank.autocast():
            values: Tensor = self.reader(self.encoder(windows))
        return values.float()

    @torch.no_grad()
    def correlations(self, sounds: Sounds) -> dict[str, float]:
        """Measure predictions, block by block as in a render: mean correlations over stretches of `CLIP_FRAMES`.

        `openness` and `width` are over all tracks, `openness piper` over those of a synthesiser.
        """
        self.reader.eval()
        self.encoder.mel_filters = self.filters[THROATS // 2]
        found: dict[str, list[np.ndarray]] = {}
        for (sample, frame, count), engine in zip(sounds.tracks.tolist(), sounds.engines, strict=True):
            if count == 0:  # shorter than a block
                continue
            ends = (
                sample
                + self.lookahead
                + BLOCK_SAMPLES * torch.arange(1, count // BLOCK_FRAMES + 1, device=self.rank.device)
            )
            read = [self._read(part, sounds)[:, self._block] for part in (ends - self.window).split(self.args.batch)]
            curves = torch.cat(read).flatten(0, 1).cpu().numpy()
            truth = sounds.values_FV[frame : frame + count].cpu().numpy()
            length = min(CLIP_FRAMES, count)
            stretches = [slice(i, i + length) for i in range(0, count - length + 1, length)]
            for value, name in enumerate(VALUES):
                alike = correlations([curves[t, value] for t in stretches], [truth[t, value] for t in stretches])
                found.setdefault(name, []).append(alike)
                found.setdefault(f"{name} {engine}", []).append(alike)
        self.reader.train()
        return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def train(args: argparse.Namespace, rank: runtime.TrainRank) -> None:
    """Run the stage until its time budget is used up."""
    args.out.mkdir(parents=True, exist_ok=True)
    cfg, mouths = PRESETS[args.preset].speech, Mouths(HeadAssets(args.assets))
    window, _ = window_samples(cfg)
    sounds, held_out = (
        gather_sounds(load_tracks(args.speech, split, speeds), recordings, mouths, window, rank.device)
        for split, speeds, recordings in (("train", SPEEDS, RECORDINGS), ("eval", (1.0,), 1))
    )
    trainer = Tuning(args, cfg, sounds, rank)
    journal = runtime.JsonLog(args.out / "tuning.jsonl", rank)
    budget = runtime.Budget(rank, args.seconds)
    while (fraction := budget.fraction(trainer.step)) < 1:
        values = trainer.train_step(fraction)
        if trainer.step % args.log_every == 0:
            journal.report(trainer.step, budget, {**values, **trainer.correlations(held_out)})
    journal.report(trainer.step, budget, trainer.correlations(held_out))
    if rank.first:
        low_rank.save(args.out / low_rank.FILE, trainer.encoder)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    options = argparse.ArgumentParser(description="tune the speech encoder to mouth shapes")
    options.add_argument("--speech", type=Path, required=True, help="folder of speech.json")
    options.add_argument("--assets", type=Path, required=True, help="folder of the head's files")
    options.add_argument("--out", type=Path, required=True, help="folder of the training run")
    options.add_argument("--preset", choices=("mini", "tiny"), default="mini")
    options.add_argument("--seconds", type=float, default=150)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--rank", type=int, default=64, help="of the corrections")
    options.add_argument("--rate", type=float, default=3e-4, help="learning rate of the corrections")
    options.add_argument("--balance", type=float, default=0.5, help="of synthesisers: 0 by length, 1 the same share")
    options.add_argument("--log_every", type=int, default=400)
    options.add_argument("--speech_encoder", default="tiny.en", help="Whisper name, or a file of its encoder")
    return options


def main(argv: list[str] | None = None) -> None:
    """Run the command line of the stage."""
    runtime.run_stage(parser(), train, argv)


if __name__ == "__main__":
    main()
