"""Speech features of the 14B: all hidden states of a wav2vec2 model, resampled to the video's frame rate.

The network itself is transformers' `Wav2Vec2Model`; this module owns the reference's processing around it.
Rates: hidden states come at 50 Hz, are stretched linearly to 30 Hz over the whole track, and then sampled at
the nearest index for every video frame. Frames past the end of the track are zero.

Sound that still arrives is heard through a *window*, the newest `SpeechConfig.window_seconds`: one pass of the network
a block, whatever was said. Three things then differ from the whole track. Attention and positions end at the window's
borders; the waveform is normalised over the window; and frame f lies at its own time, where the released stretch of
the whole track is up to 27 ms off at its end. `liveavatar.bench.live_speech` measures how far features move.

Shapes: L hidden states, T50/T30 their frames, C width, F video frames.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from liveavatar.audio.encoders.windows import StreamedFeatures, window_samples
from liveavatar.config import SpeechConfig
from liveavatar.errors import CheckpointError, InputError
from liveavatar.files import read_json
from liveavatar.timing import BLOCK_FRAMES, BLOCK_SAMPLES, FPS, SAMPLE_RATE

STATE_RATE = 50  # Hz, of the encoder's hidden states
MIDDLE_RATE = 30  # Hz, of the stretched features
RELEASED_CLIP = 48  # frames: features of the released model come in whole clips
VARIANCE_EPS = 1e-7  # of the waveform normalisation
QUIET_VARIANCE = 1e-4  # of a window, -40 dB of full scale; quieter ones are not raised to the level of speech
STATE_SAMPLES = SAMPLE_RATE // STATE_RATE

_OLD_NAMES = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def normalise_waveform(samples: Tensor, least_variance: float = 0.0) -> Tensor:
    """Normalise a track [samples] to zero mean and unit variance, as transformers' feature extractor does.

    Args:
        least_variance: a variance below it counts as so much.
    """
    variance = samples.var(unbiased=False).clamp(min=least_variance)
    return (samples - samples.mean()) / torch.sqrt(variance + VARIANCE_EPS)


def stretch(states_LTC: Tensor) -> Tensor:
    """Resample hidden states at 50 Hz [L, T50, C] to 30 Hz [L, T30, C], end points aligned."""
    num_frames = int(states_LTC.shape[1] / STATE_RATE * MIDDLE_RATE)
    stretched = F.interpolate(states_LTC.transpose(1, 2), size=num_frames, mode="linear", align_corners=True)
    return stretched.transpose(1, 2)


def frame_features(features_LTC: Tensor, fps: int, clip_frames: int, window: int = 0) -> tuple[Tensor, int]:
    """Sample features at 30 Hz for every video frame of whole clips.

    Args:
        features_LTC: [L, T30, C].
        fps: video frames per second.
        clip_frames: frames of a clip.
        window: neighbours on either side that are concatenated to a frame's own vector.

    Returns:
        ([F, L, C * (2*window + 1)], number of clips); the last clip may lie wholly past the end of the track.
    """
    num_states, length, width = features_LTC.shape
    num_clips = int(length / (clip_frames * (MIDDLE_RATE / fps))) + 1
    num_frames = num_clips * clip_frames
    times = np.linspace(0, num_frames / fps, num_frames, endpoint=False)
    index = torch.from_numpy(np.round(times * MIDDLE_RATE).astype(np.int64))
    stride = int(MIDDLE_RATE / fps)
    neighbours = torch.arange(-window, window + 1) * stride
    indices = (index[:, None] + neighbours).clamp(0, length - 1)  # [F, 2*window + 1]
    sampled = features_LTC[:, indices].permute(1, 0, 2, 3).reshape(num_frames, num_states, -1)
    sampled = sampled * (index < length).to(sampled.dtype)[:, None, None]
    assert sampled.shape[-1] == width * (2 * window + 1)
    return sampled, num_clips


def build_wav2vec2(config: dict[str, Any], weights: dict[str, Tensor]) -> torch.nn.Module:
    """Build a transformers `Wav2Vec2Model` with the weights of a `Wav2Vec2ForCTC` checkpoint.

    Raises:
        CheckpointError: when names or shapes do not fit.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    model = Wav2Vec2Model(Wav2Vec2Config(**config))
    named = {}
    for key, value in weights.items():
        if not key.startswith("wav2vec2."):
            continue  # the CTC head is not used
        head, _, last = key.removeprefix("wav2vec2.").rpartition(".")
        named[f"{head}.{_OLD_NAMES.get(last, last)}" if head else last] = value
    wanted = model.state_dict()
    optional = {"masked_spec_embed"}  # used in training only
    faults = sorted((wanted.keys() ^ named.keys()) - optional)
    faults += [k for k in named.keys() & wanted.keys() if named[k].shape != wanted[k].shape]
    if faults:
        raise CheckpointError(
            f"the wav2vec2 weights do not fit their config: {', '.join(faults[:4])}; fetch the speech encoder again"
        )
    model.load_state_dict(named, strict=False)
    return model.eval().requires_grad_(False)


def load_wav2vec2(directory: Path) -> torch.nn.Module:
    """Load the speech encoder of a directory as published (config.json, model.safetensors or pytorch_model.bin).

    Raises:
        CheckpointError: when files are missing or damaged.
    """
    from liveavatar.checkpoints.weight_files import part_files, read_pickle, read_tensors

    config = directory / "config.json"
    files = part_files(directory, "model") if directory.is_dir() else []
    pickled = directory / "pytorch_model.bin"
    if not config.is_file() or not (files or pickled.is_file()):
        raise CheckpointError(
            f"{directory} holds no wav2vec2 model (config.json and model.safetensors); "
            "run `liveavatar models fetch live-avatar-14b`"
        )
    weights = dict(read_tensors(files)) if files else read_pickle(pickled)
    try:
        settings = dict(read_json(config))
    except (ValueError, TypeError) as e:
        raise CheckpointError(f"{config} is damaged ({e}); fetch the speech encoder again") from e
    return build_wav2vec2(settings, weights)


@torch.inference_mode()
def hidden_states(model: torch.nn.Module, samples: Tensor, least_variance: float = 0.0) -> Tensor:
    """Compute all hidden states [L, T50, C] of a 16 kHz track [samples] in -1..1, the input embedding first."""
    parameter = next(model.parameters())
    values = normalise_waveform(samples.float(), least_variance)[None].to(parameter.device, parameter.dtype)
    out = model(values, output_hidden_states=True)
    # The last state must be taken after the final norm; in hidden_states that depends on the library's version.
    return torch.cat((*out.hidden_states[:-1], out.last_hidden_state))


def wav2vec2_features(model: torch.nn.Module, samples: Tensor, fps: int, clip_frames: int) -> Tensor:
    """Compute driving features [L, C, F] of a whole track, F a whole number of clips."""
    sampled, _ = frame_features(stretch(hidden_states(model, samples)), fps, clip_frames)
    return sampled.permute(1, 2, 0)


def window_features(model: torch.nn.Module, window: Tensor, block: int, first_sample: int) -> Tensor:
    """Compute driving features [L, C, 12] of a block from the newest sound.

    Args:
        model: from `load_wav2vec2`.
        window: [samples], a little past the block's end included.
        block: index of the block.
        first_sample: of the window in the track, a multiple of `STATE_SAMPLES`.
    """
    return block_frames(hidden_states(model, window, QUIET_VARIANCE), block, first_sample)


def block_frames(states: Tensor, block: int, first_sample: int = 0) -> Tensor:
    """Sample hidden states [L, T50, C], of which the first begins at `first_sample`, for a block: [L, C, 12]."""
    assert first_sample % STATE_SAMPLES == 0
    frames = torch.arange(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES, dtype=torch.float64)
    thirds = torch.round(frames * MIDDLE_RATE / FPS).long() * (3 * STATE_RATE // MIDDLE_RATE)  # of a state, exact
    left = thirds // 3 - first_sample // STATE_SAMPLES
    share = (thirds % 3).to(states.dtype).to(states.device)[:, None] / 3
    mixed = torch.lerp(states[:, left], states[:, left + 1], share)
    return mixed.transpose(1, 2)


class Wav2Vec2Speech:
    """The `wav2vec2` kind of `liveavatar.audio.encoders.SpeechEncoder`; its network is loaded when it is first used."""

    def __init__(self, speech: SpeechConfig, directory: Path) -> None:
        self.speech, self.directory = speech, directory

    def features(self, audio: np.ndarray) -> Tensor:
        """Compute features bf16 [L, C, F] of a whole track: hidden states may exceed fp16's range.

        Raises:
            CheckpointError: the encoder is missing, damaged, or does not fit the model.
        """
        return self._checked(wav2vec2_features(self._network, torch.from_numpy(audio), FPS, RELEASED_CLIP))

    def stream(self, first_block: int) -> StreamedFeatures:
        """Start features of sound that still arrives, bf16 [L, C, 12] a block; a first block of silence is computed.

        Raises:
            CheckpointError: the encoder is missing, damaged, or does not fit the model.
        """
        length, _ = window_samples(self.speech)
        self._window_features(np.zeros(length, np.float32), length // BLOCK_SAMPLES)  # what is slow once, is done now
        return StreamedFeatures(self.speech, self._window_features, first_block)

    def _window_features(self, window: np.ndarray, block: int) -> Tensor:
        _, lookahead = window_samples(self.speech)
        first = (block + 1) * BLOCK_SAMPLES + lookahead - len(window)
        return self._checked(window_features(self._network, torch.from_numpy(window), block, first))

    @cached_property
    def _network(self) -> torch.nn.Module:
        return load_wav2vec2(self.directory).to("cuda" if torch.cuda.is_available() else "cpu")

    def _checked(self, features: Tensor) -> Tensor:
        if tuple(features.shape[:2]) != (self.speech.num_states, self.speech.dim):
            raise CheckpointError(
                f"{self.directory} gives {tuple(features.shape[:2])} features, the model wants "
                f"{(self.speech.num_states, self.speech.dim)}; fetch the speech encoder that was published with it"
            )
        return features.to("cpu", torch.bfloat16)


def load(speech: SpeechConfig, model_dir: Path | None) -> Wav2Vec2Speech:
    """Locate the encoder in a model directory.

    Raises:
        InputError: there is no model directory.
        CheckpointError: the config names corrections, which this kind of encoder has not.
    """
    from liveavatar.checkpoints.released import speech_dir

    if speech.tuning:
        raise CheckpointError(
            f"config.json names corrections of the speech encoder, {speech.tuning!r}, and {speech.kind} takes none; "
            "use a newer version, or another model"
        )
    if model_dir is None:
        raise InputError(f"the speech encoder {speech.name} lies in a model directory; name it with --model")
    return Wav2Vec2Speech(speech, speech_dir(model_dir))
