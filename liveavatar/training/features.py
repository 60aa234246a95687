"""Speech features of all tracks, computed once and stored on the GPU.

Shapes: B batch, b blocks, L speech states, C their width, F feature frames.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liveavatar.audio.encoders.whisper import whisper_features
from liveavatar.audio.encoders.whisper_network import WhisperEncoder, mel_filters
from liveavatar.config import SpeechConfig
from liveavatar.timing import BLOCK_FRAMES
from liveavatar.training import runtime
from liveavatar.training.corpus.layout import SPEEDS
from liveavatar.training.corpus.speech.sound import other_recording
from liveavatar.training.corpus.speech.tracks import load_tracks

RECORDINGS = 3  # of every training track: original, two with another tone, room and noise, the last another vocal tract
THROAT = 0.16  # largest log of the factor on the length of that vocal tract
SOUND_THREADS, SOUND_TRACKS = 4, 8  # threads that load sounds, tracks loaded ahead (15 MB each, all recordings)


class FeatureBank:
    """Speech features of all tracks of a split, one frame a row; repeats of its first frame precede each track.

    `starts` [recordings, tracks] are the first rows of the tracks.
    """

    def __init__(self, rows_FLC: Tensor, starts: Tensor, history: int) -> None:
        self.rows, self.starts, self.history = rows_FLC, starts, history

    def append(self, other: "FeatureBank") -> None:
        """Append the states of another encoder, of the same sounds, to every row."""
        assert torch.equal(self.starts, other.starts), "features of other tracks"
        self.rows = torch.cat((self.rows, other.rows), dim=1)

    def window(self, tracks_B: Tensor, blocks_B: Tensor, num_blocks: int, recordings_B: Tensor | None = None) -> Tensor:
        """Cut out features [B, L, C, history + 12 * num_blocks] for `num_blocks` blocks of `tracks_B` from `blocks_B`.

        `recordings_B` selects recordings; None is the original ones.
        """
        recordings = torch.zeros_like(tracks_B) if recordings_B is None else recordings_B
        first = self.starts[recordings, tracks_B] + blocks_B * BLOCK_FRAMES
        span = torch.arange(self.history + num_blocks * BLOCK_FRAMES, device=first.device)
        return self.rows[(first[:, None] + span).clamp(max=len(self.rows) - 1)].permute(0, 2, 3, 1).float()


def speech_features(
    speech: Path, split: str, cfg: SpeechConfig, encoder: WhisperEncoder, rank: runtime.TrainRank
) -> dict[int, Tensor]:
    """Compute features [F, L, C] fp16 of this rank's share of the tracks of a split.

    Recording r of track i has the key r * number of tracks + i; held-out tracks have one recording. Training uses no
    averaging over `cfg.shifts`, so that the model becomes robust to the window's position.
    """
    if split == "train":
        cfg = replace(cfg, shifts=(0,))
    tracks = load_tracks(speech, split, SPEEDS if split == "train" else (1.0,))  # sound is decoded on first use
    recordings = RECORDINGS if split == "train" else 1
    batch = 256 if rank.device.type == "cuda" else 16

    def sounds(track: int) -> list[tuple[int, np.ndarray]]:
        plain = tracks[track].audio
        del tracks[track].audio  # not used again; frees the memory
        others = (other_recording(plain, np.random.default_rng([r, track])) for r in range(1, recordings))
        return [(r * len(tracks) + track, audio) for r, audio in enumerate([plain, *others])]

    # Threads load and augment sounds while the GPU computes.
    loaded = runtime.map_ahead(sounds, range(rank.rank, len(tracks), rank.world), SOUND_THREADS, SOUND_TRACKS)
    features = {}
    for recordings_of_track in loaded:
        for key, audio in recordings_of_track:
            encoder.mel_filters.copy_(torch.from_numpy(mel_filters(len(encoder.mel_filters), throat(key, len(tracks)))))
            states = whisper_features(
                audio, cfg, device=rank.device, whisper_encoder=encoder, batch=batch, dtype=torch.float16
            )
            features[key] = states.permute(2, 0, 1)
    return features


def throat(key: int, num_tracks: int) -> float:
    """Draw the relative vocal tract length of the recording of key `key` (see `speech_features`)."""
    other = key // num_tracks == RECORDINGS - 1
    return float(np.exp(np.random.default_rng(key).uniform(-THROAT, THROAT))) if other else 1.0


def load_bank(folder: Path, split: str, history: int, device: torch.device) -> FeatureBank:
    """Join the feature files of all ranks."""
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
