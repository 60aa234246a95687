"""The text and speech encoders against transformers' own modules."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from liveavatar import parity
from liveavatar.model.umt5 import build_umt5
from tests.parity.sets import change
from tests.released import umt5_weights

transformers = pytest.importorskip("transformers")


def found(directory: Path, prefix: str) -> dict[str, bool | None]:
    return {p.name: p.ok for p in parity.run_parity(directory, prefix)}


def write_text(directory: Path) -> None:
    """Rows of two padded prompts, by transformers' encoder, and those within the mask of each."""
    weights = umt5_weights()
    ids = torch.tensor([[3, 4, 5, 1, 0, 0], [4, 1, 0, 0, 0, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        rows = build_umt5(weights)(input_ids=ids, attention_mask=mask).last_hidden_state
    save_file(weights, directory / "t5_weights.safetensors")
    tensors = {"ids": ids, "mask": mask, "out": rows, "out0_trimmed": rows[0, :4], "out1_trimmed": rows[1, :2]}
    save_file({k: v.clone() for k, v in tensors.items()}, directory / "t5_io.safetensors")


@pytest.mark.parametrize(("key", "ok"), [(None, True), ("out", False), ("out1_trimmed", False)])
def test_rows_of_prompts(key: str | None, ok: bool, tmp_path: Path) -> None:
    write_text(tmp_path)
    if key is not None:
        change(tmp_path / "t5_io.safetensors", key, 2e-5)
    assert found(tmp_path, "t5") == {"t5": ok}


def write_speech(directory: Path) -> None:
    """Hidden states of a second of noise, by transformers' model, and the features of a clip of 48 frames."""
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, vocab_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(config).eval()
    waveform = torch.randn(16_000)
    inputs = ((waveform - waveform.mean()) / torch.sqrt(waveform.var(unbiased=False) + 1e-7))[None]
    with torch.no_grad():
        states = model.wav2vec2(inputs, output_hidden_states=True).hidden_states
    hidden = torch.cat(states)  # [L, T50, C]
    at30 = F.interpolate(hidden.mT, size=int(hidden.shape[1] / 50 * 30), mode="linear", align_corners=True).mT
    index = torch.round(torch.arange(48) / 25 * 30).long()
    bucket = at30[:, index.clamp(max=at30.shape[1] - 1)].permute(1, 0, 2) * (index < at30.shape[1])[:, None, None]
    tensors = {
        "waveform": waveform, "input_values": inputs, "hidden_states50": hidden, "feat30": at30, "bucket": bucket,
        "num_clips": torch.tensor(1), "model_input": bucket.permute(1, 2, 0)[None],
    }  # fmt: skip
    save_file({k: v.contiguous() for k, v in tensors.items()}, directory / "wav2vec2_io.safetensors")
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    metadata = {"config": json.dumps(config.to_dict())}
    save_file(weights, directory / "wav2vec2_weights.safetensors", metadata)


@pytest.mark.parametrize(
    ("key", "failed"),
    [
        (None, set()),
        ("input_values", {"wav2vec2.states"}),
        ("hidden_states50", {"wav2vec2.states"}),
        ("feat30", {"wav2vec2.features"}),
        ("model_input", {"wav2vec2.features"}),
        ("num_clips", {"wav2vec2.features"}),
    ],
)
def test_states_and_features_of_speech(key: str | None, failed: set[str], tmp_path: Path) -> None:
    write_speech(tmp_path)
    if key is not None:
        change(tmp_path / "wav2vec2_io.safetensors", key, 1 if key == "num_clips" else 1e-3)
    parts = found(tmp_path, "wav2vec2")
    assert parts == {name: name not in failed for name in ("wav2vec2.states", "wav2vec2.features")}
