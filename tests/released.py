"""A directory in the released layout with everything the 14B comes with, scaled to a few thousand weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from liveavatar.checkpoints.load import build_part
from liveavatar.checkpoints.weight_files import module_shapes, write_part
from liveavatar.config import LIVE_AVATAR_14B, ModelConfig

TEXT_DIM, VOCAB, SPEECH_DIM, SPEECH_LAYERS = 16, 32, 16, 4
SCALED = replace(
    LIVE_AVATAR_14B,
    dit=replace(
        LIVE_AVATAR_14B.dit, dim=48, num_heads=2, num_layers=3, ffn_dim=64, freq_dim=16, text_dim=TEXT_DIM,
        text_len=8, audio_dim=SPEECH_DIM, audio_layers=SPEECH_LAYERS + 1, audio_inject_layers=(0, 2),
    ),
    vae=replace(LIVE_AVATAR_14B.vae, encoder_widths=(4, 8, 16, 16), decoder_widths=(16, 16, 8, 4)),
    text=replace(LIVE_AVATAR_14B.text, dim=TEXT_DIM, length=8),
    speech=replace(LIVE_AVATAR_14B.speech, dim=SPEECH_DIM, num_states=SPEECH_LAYERS + 1),
)  # fmt: skip
SPEECH_NETWORK = {
    "hidden_size": SPEECH_DIM, "num_hidden_layers": SPEECH_LAYERS, "num_attention_heads": 2, "intermediate_size": 24,
    "conv_dim": (8,) * 7, "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "vocab_size": 8,
}  # fmt: skip
WORDS = ("<pad>", "</s>", "<unk>", "a", "calm", "woman", "man", "in", "warm", "light")


def random_weights(shapes: dict[str, torch.Size], scale: float = 0.15) -> dict[str, Tensor]:
    """Seeded weights of these shapes."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=generator) * scale for name, shape in shapes.items()}


def make_released(folder: Path, config: ModelConfig = SCALED) -> Path:
    """Write the directory; gives the one to load."""
    base = folder / "Wan2.2-S2V-14B"
    base.mkdir(parents=True)
    shapes = module_shapes(build_part(config, "dit"))
    write_part(base, "diffusion_pytorch_model", random_weights(shapes), shard_bytes=300_000)
    names = ("dim", "num_heads", "num_layers", "ffn_dim", "freq_dim", "text_dim", "text_len", "audio_dim")
    raw = {n: getattr(config.dit, n) for n in names}
    raw |= {"_class_name": "WanModel_S2V", "audio_inject_layers": list(config.dit.audio_inject_layers)}
    (base / "config.json").write_text(json.dumps(raw))
    torch.save(random_weights(module_shapes(build_part(config, "vae"))), base / "Wan2.1_VAE.pth")
    torch.save(umt5_weights(), base / "models_t5_umt5-xxl-enc-bf16.pth")
    write_tokenizer(base / "google" / "umt5-xxl")
    _wav2vec2(base / "wav2vec2-large-xlsr-53-english")
    lora = folder / "Live-Avatar"
    lora.mkdir()
    pairs = {}
    for name, shape in shapes.items():
        if name.endswith((".q.weight", ".ffn.0.weight")):
            module = name.removesuffix(".weight")
            pairs[f"{module}.lora_A.default.weight"] = torch.randn(4, shape[1]) * 0.1
            pairs[f"{module}.lora_B.default.weight"] = torch.randn(shape[0], 4) * 0.1
    save_file(pairs, lora / "liveavatar.safetensors")
    return folder


def drop(name: str) -> Callable[[Path], object]:
    """Damage that deletes a file below the base model, or all files of a folder."""

    def act(base: Path) -> None:
        path = base / name
        for file in [path] if path.is_file() else sorted(path.glob("*")):
            file.unlink()

    return act


def umt5_weights() -> dict[str, Tensor]:
    """Random weights of a umT5 of two layers, under the names of the published file."""
    dim, heads, width, hidden = TEXT_DIM, 2, 8, 24
    shapes = {"token_embedding.weight": (VOCAB, dim), "norm.weight": (dim,)}
    for i in range(2):
        shapes |= {
            f"blocks.{i}.norm1.weight": (dim,), f"blocks.{i}.norm2.weight": (dim,),
            **{f"blocks.{i}.attn.{n}.weight": (heads * width, dim) for n in "qkv"},
            f"blocks.{i}.attn.o.weight": (dim, heads * width),
            f"blocks.{i}.pos_embedding.embedding.weight": (32, heads),
            f"blocks.{i}.ffn.gate.0.weight": (hidden, dim), f"blocks.{i}.ffn.fc1.weight": (hidden, dim),
            f"blocks.{i}.ffn.fc2.weight": (dim, hidden),
        }  # fmt: skip
    return random_weights({k: torch.Size(v) for k, v in shapes.items()}, 0.5)


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of `WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))


def _wav2vec2(folder: Path) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    Wav2Vec2ForCTC(Wav2Vec2Config(**SPEECH_NETWORK)).save_pretrained(folder)
