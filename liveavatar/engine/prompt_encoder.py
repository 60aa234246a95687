"""Prompts to rows of a model's text encoder."""

from pathlib import Path

import torch
from torch import Tensor

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.engine.engine import EncodePrompt
from liveavatar.errors import InputError
from liveavatar.model.text import tokenize_batch


def prompt_encoder(model: LoadedModel, model_dir: Path | None, device: torch.device) -> EncodePrompt:
    """Make the function that encodes prompts: the model's own text encoder, or a released one that is never resident.

    Args:
        model: with its text encoder, unless that is a released one.
        model_dir: where a released text encoder lies.
        device: of the rows.
    """
    config = model.config.text

    @torch.inference_mode()
    def encode(prompt: str) -> Tensor:
        if config.resident:
            rows: Tensor = model.text(tokenize_batch([prompt], config).to(device))
            return rows
        if model_dir is None:
            raise InputError(f"the text encoder of {model.config.name} lies in its model directory; load it from there")
        from liveavatar.engine.prompt_embedding import prompt_rows

        return prompt_rows(model_dir, config, prompt, device)

    return encode
