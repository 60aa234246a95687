"""The published umT5 on transformers: every weight under its name, misfits named, prompts mended."""

from pathlib import Path

import pytest
import torch

from liveavatar.errors import CheckpointError
from liveavatar.model.umt5 import build_umt5, clean_prompt, encode_ids, encode_prompt, rename_key
from tests.released import TEXT_DIM, umt5_weights, write_tokenizer

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("blocks.11.attn.k.weight", "encoder.block.11.layer.0.SelfAttention.k.weight"),
        ("blocks.0.ffn.gate.0.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
        ("blocks.0.ffn.fc1.weight", "encoder.block.0.layer.1.DenseReluDense.wi_1.weight"),
        ("token_embedding.weight", "shared.weight"),
        ("norm.weight", "encoder.final_layer_norm.weight"),
    ],
)
def test_a_weight_has_the_name_of_its_place(published: str, ours: str) -> None:
    assert rename_key(published) == ours


@pytest.mark.parametrize("key", ["blocks.0.cross_attn.q.weight", "decoder.norm.weight", "blocks.norm1.weight"])
def test_a_weight_of_another_network_is_refused(key: str) -> None:
    with pytest.raises(CheckpointError, match="which umT5 has not"):
        rename_key(key)


def test_weights_are_taken_as_they_are() -> None:
    weights = umt5_weights()
    model = build_umt5(weights)
    own = model.state_dict()
    assert all(own[rename_key(name)].data_ptr() == t.data_ptr() for name, t in weights.items())
    assert torch.equal(own["encoder.embed_tokens.weight"], weights["token_embedding.weight"])
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_misfits_are_named() -> None:
    whole = umt5_weights()
    name = "blocks.1.attn.o.weight"
    for weights in ({k: t for k, t in whole.items() if k != name}, whole | {name: whole[name][:-1]}):
        with pytest.raises(CheckpointError, match=rename_key(name).replace(".", r"\.")):
            build_umt5(weights)


def test_rows_of_a_prompt_are_its_own_tokens_up_to_the_end_mark(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    model = build_umt5(umt5_weights())
    rows = encode_prompt(model, tmp_path / "tokenizer", "a  calm woman", 8)
    ids = torch.tensor([[3, 4, 5, 1, 0, 0, 0, 0]])
    assert rows.shape == (1, 4, TEXT_DIM)
    assert torch.equal(rows, encode_ids(model, ids, (ids != 0).long())[:, :4])


def test_tokens_beyond_the_limit_are_cut_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    model = build_umt5(umt5_weights())
    assert encode_prompt(model, tmp_path / "tokenizer", "a calm woman in warm light", 4).shape[1] == 4
    assert "the prompt has 7 tokens; the text encoder reads the first 4, to 'a calm woman'" in caplog.text


@pytest.mark.parametrize(
    ("prompt", "clean"),
    [
        pytest.param("  a \n calm\twoman ", "a calm woman", id="white space"),
        pytest.param("salt &amp;amp; pepper", "salt & pepper", id="entities, written twice"),
        pytest.param("caf\u00c3\u00a9", "caf\u00e9", id="decoded wrongly"),
    ],
)
def test_prompts_are_mended(prompt: str, clean: str) -> None:
    assert clean_prompt(prompt) == clean
