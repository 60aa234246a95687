"""Prompt encoder of the 14B: umT5-xxl through transformers, from the checkpoint published with Wan.

The published file has its own key names; `rename_key` maps them. Rows past the end of the prompt are cut off,
as the reference does; the transformer pads with zero rows instead.

Shapes: B batch, L tokens, D width.
"""

import html
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveavatar.errors import CheckpointError, InputError
from liveavatar.model.meta import without_memory

log = logging.getLogger(__name__)

MAX_DISTANCE = 128  # tokens, of the relative position buckets
_LAYER = re.compile(r"^blocks\.(\d+)\.(.+)$")
_IN_LAYER = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}
_OUTSIDE = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}


def rename_key(key: str) -> str:
    """Map a published weight's name to transformers'.

    Raises:
        CheckpointError: when the file is for another encoder.
    """
    match = _LAYER.match(key)
    if match and match[2] in _IN_LAYER:
        return f"encoder.block.{match[1]}.{_IN_LAYER[match[2]]}"
    if key in _OUTSIDE:
        return _OUTSIDE[key]
    raise CheckpointError(f"the text encoder's file holds {key}, which umT5 has not; fetch the published file again")


def umt5_config(weights: dict[str, Tensor], num_heads: int) -> Any:
    """Build transformers' `UMT5Config` with the dimensions of the published weights."""
    from transformers import UMT5Config

    vocab, dim = weights["token_embedding.weight"].shape
    return UMT5Config(
        vocab_size=vocab,
        d_model=dim,
        d_kv=weights["blocks.0.attn.q.weight"].shape[0] // num_heads,
        d_ff=weights["blocks.0.ffn.fc1.weight"].shape[0],
        num_layers=1 + max(int(m[1]) for m in map(_LAYER.match, weights) if m),
        num_heads=num_heads,
        relative_attention_num_buckets=weights["blocks.0.pos_embedding.embedding.weight"].shape[0],
        relative_attention_max_distance=MAX_DISTANCE,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )


def build_umt5(weights: dict[str, Tensor]) -> torch.nn.Module:
    """Build transformers' `UMT5EncoderModel` on the published weights, in their dtype, without copying them.

    Raises:
        CheckpointError: when names or shapes do not fit.
    """
    from transformers import UMT5EncoderModel

    try:
        num_heads = weights["blocks.0.pos_embedding.embedding.weight"].shape[1]
        config = umt5_config(weights, num_heads)
    except KeyError as e:
        raise CheckpointError(f"the text encoder's file lacks {e}; fetch the published file again") from e
    with without_memory():
        model = UMT5EncoderModel(config)
    named = {rename_key(k): v for k, v in weights.items()}
    named["encoder.embed_tokens.weight"] = named["shared.weight"]
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    faults = sorted((shapes.keys() ^ named.keys()) - {"encoder.embed_tokens.weight"})
    faults += [k for k, v in named.items() if k in shapes and v.shape != shapes[k]]
    if faults:
        raise CheckpointError(
            f"the text encoder's file does not fit umT5: {', '.join(faults[:4])}; fetch the published file again"
        )
    model.load_state_dict({k: v for k, v in named.items() if k in shapes}, assign=True, strict=False)
    return model.eval().requires_grad_(False)


def clean_prompt(prompt: str) -> str:
    """Normalise a prompt as the reference does: mended text, HTML entities resolved, single spaces."""
    try:
        from ftfy import fix_text
    except ImportError as e:
        raise InputError("the 14B's prompt encoder needs the package ftfy; run `pip install ftfy`") from e
    return re.sub(r"\s+", " ", html.unescape(html.unescape(fix_text(prompt)))).strip()


@torch.inference_mode()
def encode_ids(model: torch.nn.Module, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Encode token ids to rows [B, L, D]; rows beyond the mask are computed as well."""
    return model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state


def encode_prompt(model: torch.nn.Module, tokenizer_dir: Path, prompt: str, length: int) -> Tensor:
    """Encode a prompt to rows [1, L, D], cut to its own tokens (end mark included, at most `length`)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)
    ids = tokenizer(clean_prompt(prompt)).input_ids
    if len(ids) > length:
        last = tokenizer.decode(ids[: length - 1], skip_special_tokens=True)[-40:]
        log.warning("the prompt has %d tokens; the text encoder reads the first %d, to %r", len(ids), length, last)
    batch = tokenizer(
        [clean_prompt(prompt)], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    device = next(model.parameters()).device
    mask = batch.attention_mask.to(device)
    return encode_ids(model, batch.input_ids.to(device), mask)[:, : int(mask.sum())]
