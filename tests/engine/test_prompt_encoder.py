"""Prompts to rows: by the model's own encoder, or by a released one that lies in the model's directory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.engine import prompt_embedding
from liveavatar.engine.prompt_encoder import prompt_encoder
from liveavatar.errors import InputError
from liveavatar.model.text import tokenize_batch

CPU = torch.device("cpu")


def test_the_embedded_encoder_makes_its_own_rows(model: LoadedModel) -> None:
    encode, prompt = prompt_encoder(model, None, CPU), "a calm woman"
    rows = encode(prompt)
    assert torch.equal(rows, model.text(tokenize_batch([prompt], model.config.text)))
    assert rows[0, :3].any()
    assert not rows[0, 3:].any(), "rows of padding are zero"
    assert rows.is_inference()


def test_a_released_encoder_is_looked_for_in_its_directory(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = replace(model, config=LIVE_AVATAR_14B, text=None)
    asked: list[Any] = []

    def prompt_rows(*args: Any) -> torch.Tensor:
        asked.append(args)
        return torch.ones(1, 2, 3)

    monkeypatch.setattr(prompt_embedding, "prompt_rows", prompt_rows)
    assert torch.equal(prompt_encoder(large, tmp_path, CPU)("a man"), torch.ones(1, 2, 3))
    assert asked == [(tmp_path, LIVE_AVATAR_14B.text, "a man", CPU)]
    with pytest.raises(InputError, match="the text encoder of live-avatar-14b lies in its model directory"):
        prompt_encoder(large, None, CPU)("a man")
