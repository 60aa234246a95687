"""Prompt rows of a model whose text encoder is transformers': run once for a prompt, freed, remembered by content.

The encoder is larger than everything else but the transformer (11 GB), so it never stays: rows of a prompt lie below
`paths.prompts()` under a digest of the prompt and of the encoder's files.
"""

import hashlib
import json
import logging
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from liveavatar import paths
from liveavatar.checkpoints import released
from liveavatar.checkpoints.checksums import file_sha256
from liveavatar.checkpoints.weight_files import read_pickle
from liveavatar.config import TextConfig
from liveavatar.errors import CheckpointError
from liveavatar.files import read_bytes, write_atomically
from liveavatar.model.umt5 import build_umt5, clean_prompt, encode_prompt

log = logging.getLogger(__name__)

_SPARE = 2 * 2**30  # bytes of GPU memory left to the encoder's activations


def prompt_rows(model_dir: Path, cfg: TextConfig, prompt: str, device: torch.device) -> Tensor:
    """Encode a prompt to rows [1, L, dim] on a device, or read them from an earlier run.

    Args:
        model_dir: in the released layout.
        cfg: of the model.
        prompt: at most `cfg.length` tokens count.
        device: where the rows go; the encoder runs there too when it fits beside what is there.

    Raises:
        CheckpointError: the encoder or its tokenizer is missing or damaged.
    """
    weights, tokenizer = released.text_files(model_dir)
    asked = [clean_prompt(prompt), cfg.length, file_sha256(weights), file_sha256(next(iter(_vocabulary(tokenizer))))]
    name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    known = _remembered(name[:32])
    if known is not None:
        return known.to(device)
    model = build_umt5(read_pickle(weights))
    model.to(_room(weights, device))
    log.info("encoding the prompt on %s", next(model.parameters()).device)
    rows = encode_prompt(model, tokenizer, prompt, cfg.length)
    if rows.shape[-1] != cfg.dim:
        raise CheckpointError(
            f"{weights} gives rows of {rows.shape[-1]}, the model wants {cfg.dim}; fetch the published file again"
        )
    data = save({"rows": rows.cpu().contiguous()})
    paths.prompts().mkdir(parents=True, exist_ok=True)
    write_atomically(paths.prompts() / f"{name[:32]}-{hashlib.sha256(data).hexdigest()}.safetensors", data)
    return rows.to(device)


def _remembered(name: str) -> Tensor | None:
    """Read the rows of an earlier run; a file that does not match the digest in its name is deleted."""
    for path in paths.prompts().glob(f"{name}-*.safetensors"):
        data = read_bytes(path)
        if path.stem.endswith(hashlib.sha256(data).hexdigest()):
            return load(data)["rows"]
        log.warning("the remembered rows of the prompt are damaged; they are made again")
        path.unlink()
    return None


def _vocabulary(tokenizer: Path) -> list[Path]:
    found = sorted(p for p in tokenizer.glob("*") if p.name in ("tokenizer.json", "spiece.model"))
    if not found:
        raise CheckpointError(
            f"{tokenizer} holds no tokenizer (tokenizer.json or spiece.model); "
            "run `liveavatar models fetch live-avatar-14b`"
        )
    return found


def _room(weights: Path, device: torch.device) -> torch.device:
    """Choose the device if the encoder fits beside the tensors there, else the CPU."""
    if device.type != "cuda":
        return device
    free = torch.cuda.mem_get_info(device)[0]
    return device if free > weights.stat().st_size + _SPARE else torch.device("cpu")
