"""Fixture sets of other sizes than the reference's, with expectations that share no loop with what is checked."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveavatar.config import LIVE_AVATAR_14B, RELEASED_SIGMAS, DiTConfig, VAEConfig
from liveavatar.model.dit import CausalDiT
from liveavatar.model.vae_wan import WanVAE

BASE = replace(
    LIVE_AVATAR_14B.dit,
    dim=48,
    num_heads=3,
    num_layers=2,
    ffn_dim=40,
    freq_dim=16,
    text_dim=12,
    text_len=9,
    audio_dim=10,
    audio_layers=3,
    audio_inject_layers=(1,),
    ref_base=30,
    ref_distance=(30, 30),
    anchor_motion=False,
)


def write_dit(directory: Path, cfg: DiTConfig, hw: tuple[int, int], num_blocks: int = 5) -> None:
    """Random weights and inputs, and the stream's flows by `forward_window`, which shares no loop with streaming."""
    torch.manual_seed(1)
    dit = CausalDiT(cfg).eval()
    names = ("dim", "num_heads", "num_layers", "ffn_dim", "in_dim", "out_dim", "cond_dim", "freq_dim", "text_dim")
    config = {n: getattr(cfg, n) for n in (*names, "text_len", "audio_dim", "num_audio_token")}
    config |= {"audio_inject_layers": list(cfg.audio_inject_layers), "enable_adain": True, "adain_mode": "attn_norm"}
    timesteps = [1000 * s for s in RELEASED_SIGMAS[4]]
    meta = {"config": config, "lat_hw": list(hw), "timesteps4": timesteps, "frames_per_block": 3}
    meta["window_latents"] = cfg.window_latents
    metadata = {k: json.dumps(v) for k, v in meta.items()}
    num_latents = 3 * num_blocks
    # Features that do not change in time: then a block's repeated history equals its true one.
    audio = torch.randn(1, cfg.audio_layers, cfg.audio_dim, 1).expand(-1, -1, -1, 4 * num_latents)
    inputs = {
        "context": torch.randn(cfg.text_len - 2, cfg.text_dim),
        "ref_latents": torch.randn(1, cfg.in_dim, 1, *hw),
        "motion_latents": torch.randn(1, cfg.in_dim, 19, *hw),
        "noise": torch.randn(cfg.in_dim, num_latents, *hw),
        "cond": torch.randn(1, cfg.cond_dim, num_latents, *hw),
        "audio": audio.contiguous(),
    }
    with torch.no_grad():
        flow = dit.forward_window(
            inputs["noise"][None],
            torch.full((1, num_blocks), timesteps[2] / 1000),
            (inputs["ref_latents"], inputs["motion_latents"]),
            inputs["context"][None],
            audio,
            0,
            inputs["cond"],
        )[0]
    out = {f"stream.block{b}.flow": flow[:, 3 * b : 3 * b + 3].contiguous() for b in range(num_blocks)}
    out["stream.relative_dist"] = torch.full((num_blocks,), cfg.ref_distance[0])
    save_file(dit.state_dict(), directory / "dit_weights.safetensors", metadata)
    save_file(inputs, directory / "dit_inputs.safetensors", metadata)
    save_file(out, directory / "dit_out_exactrope.safetensors", metadata)


def write_vae(directory: Path) -> None:
    """Write an autoencoder of two stages, and what it makes of a video and of latents as a whole."""
    torch.manual_seed(1)
    cfg_vae = VAEConfig(
        kind="wan",
        z_dim=3,
        spatial_stride=2,
        encoder_widths=(4, 8),
        decoder_widths=(8, 4),
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.5, 2.0),
        num_res_blocks=1,
        temporal_downsample=(True,),
    )
    vae = WanVAE(cfg_vae).eval()
    raw = {"dim": 4, "z_dim": 3, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True]}
    save_file(vae.state_dict(), directory / "vae_weights.safetensors", {"config": json.dumps(raw)})
    video, latent = torch.rand(1, 3, 5, 4, 6), torch.randn(1, 3, 9, 2, 3)
    io: dict[str, Tensor] = {
        "enc5.video": video,
        "enc5.latent": vae.encode(video),
        "dec.latent": latent,
        "dec.whole": vae.decode(latent),
        "mean": torch.tensor(cfg_vae.mean),
        "std": torch.tensor(cfg_vae.std),
    }
    save_file(io, directory / "vae_io.safetensors")


def change(path: Path, key: str, by: float) -> None:
    """Add a number to one tensor of a file, which becomes fp32."""
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    tensors[key] += by
    save_file(tensors, path)
