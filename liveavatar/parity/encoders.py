"""Parity of the 14B's text and speech encoders, which run through transformers."""

from collections.abc import Iterator

import torch

from liveavatar.parity.fixtures import Fixtures
from liveavatar.parity.report import Comparison, Part
from liveavatar.timing import FPS

TOLERANCE = 1e-5
CLIP_FRAMES = 48


def check_text(fix: Fixtures) -> Iterator[Part]:
    """Compare umT5 rows of padded ids, within and beyond the mask, and the trimmed prompts."""
    from liveavatar.model.umt5 import build_umt5, encode_ids

    io = fix.file("t5_io")
    model = build_umt5(fix.file("t5_weights").tensors)
    rows = encode_ids(model, io["ids"], io["mask"])
    result = Comparison()
    result.add("out", rows, io["out"])
    for i in range(rows.shape[0]):
        if f"out{i}_trimmed" in io.tensors:
            result.add(f"out{i}_trimmed", rows[i, : int(io["mask"][i].sum())], io[f"out{i}_trimmed"])
    yield result.part("t5", TOLERANCE)


def check_speech(fix: Fixtures) -> Iterator[Part]:
    """Compare waveform -> hidden states -> features per video frame."""
    from liveavatar.audio.encoders.wav2vec2 import (
        build_wav2vec2,
        frame_features,
        hidden_states,
        normalise_waveform,
        stretch,
    )

    io, weights = fix.file("wav2vec2_io"), fix.file("wav2vec2_weights")
    model = build_wav2vec2(weights.meta("config"), weights.tensors)
    states, features = Comparison(), Comparison()
    states.add("input_values", normalise_waveform(io["waveform"])[None], io["input_values"])
    hidden = hidden_states(model, io["waveform"])
    states.add("hidden_states50", hidden, io["hidden_states50"])
    stretched = stretch(hidden)
    features.add("feat30", stretched, io["feat30"])
    sampled, clips = frame_features(stretched, FPS, CLIP_FRAMES)
    features.add("bucket", sampled, io["bucket"])
    features.add("num_clips", torch.tensor(clips), io["num_clips"])
    features.add("model_input", sampled.permute(1, 2, 0)[None], io["model_input"])
    yield states.part("wav2vec2.states", TOLERANCE)
    yield features.part("wav2vec2.features", TOLERANCE)


def groups(group: type) -> tuple:
    """Groups of this module, made with `liveavatar.parity.checks.CheckGroup`."""
    return (
        group(
            names=("t5",),
            files=("t5_weights", "t5_io"),
            tolerance=TOLERANCE,
            check=check_text,
            requires=("transformers",),
        ),
        group(
            names=("wav2vec2.states", "wav2vec2.features"),
            files=("wav2vec2_weights", "wav2vec2_io"),
            tolerance=TOLERANCE,
            check=check_speech,
            requires=("transformers",),
        ),
    )
