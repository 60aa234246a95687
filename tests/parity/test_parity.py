"""The parity command: the trimmed reference set, the full one where there is one, and sets of other sizes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveavatar import parity
from liveavatar.config import LIVE_AVATAR_14B, RELEASED_SIGMAS, DiTConfig, VAEConfig
from liveavatar.errors import InputError
from liveavatar.model.dit import CausalDiT
from liveavatar.model.vae_wan import WanVAE

TRIMMED = Path(__file__).parent
FP16_TOLERANCE = 1e-2  # the trimmed set is rounded to fp16
REQUIRED = (
    *("scheduler.sigmas", "scheduler.euler_fp32", "scheduler.euler_bf16", "audio_encoder"),
    *("motion_packer.tokens", "motion_packer.rope"),
    *(
        f"dit.{rope}.{s}"
        for rope in ("exactrope", "refrope")
        for s in ("prefill", "single", "stream", "stream_ring", "far", "reprefill", "actors", "sampler")
    ),
    *("vae.encode", "vae.encode_stream", "vae.decode", "vae.decode_stream"),
)


@pytest.fixture
def trimmed(tmp_path: Path) -> Path:
    """The trimmed set without the half of an autoencoder, which `test_vae_wan` checks."""
    for path in TRIMMED.glob("*.safetensors"):
        if not path.name.startswith("vae_"):
            shutil.copy(path, tmp_path)
    return tmp_path


def test_trimmed_set(trimmed: Path) -> None:
    ran = {p.name: p.max_abs_difference for p in parity.run_parity(trimmed) if p.ok is not None}
    assert ran.keys() >= {"scheduler.sigmas", "dit.exactrope.prefill", "dit.exactrope.stream", "dit.exactrope.sampler"}
    assert {n: d for n, d in ran.items() if d > FP16_TOLERANCE} == {}


def test_a_wrong_engine_fails(trimmed: Path) -> None:
    path = trimmed / "dit_out_exactrope.safetensors"
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    tensors["stream.block4.flow"] += 0.05
    save_file(tensors, path)
    by_name = {p.name: p for p in parity.run_parity(trimmed)}
    assert by_name["dit.exactrope.stream"].max_abs_difference > 0.04
    assert not by_name["dit.exactrope.stream"].ok
    assert parity.exit_code(by_name.values()) == 1


def test_nothing_required_is_left_out() -> None:
    names = [name for group in parity.GROUPS for name in group.names]
    assert set(names) >= set(REQUIRED)


# A set of another size, its expectations computed by the training path, which shares no loop with streaming.

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
OTHER_SIZES = [
    pytest.param(BASE, (16, 8), id="three heads, latents taller than wide"),
    pytest.param(replace(BASE, num_heads=2, in_dim=8, out_dim=8, cond_dim=8), (8, 8), id="eight channels, square"),
    pytest.param(replace(BASE, window_latents=6, audio_layers=25), (8, 24), id="ring of two blocks, wide"),
    pytest.param(replace(BASE, num_layers=4, audio_inject_layers=(0, 1, 3), num_heads=4), (8, 8), id="four layers"),
]


def write_set(directory: Path, cfg: DiTConfig, hw: tuple[int, int], num_blocks: int = 5) -> None:
    """Random weights and inputs, the stream's flows by `forward_window`, and an autoencoder of two stages."""
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


@pytest.mark.parametrize(("cfg", "hw"), OTHER_SIZES)
def test_sets_of_other_sizes(cfg: DiTConfig, hw: tuple[int, int], tmp_path: Path) -> None:
    write_set(tmp_path, cfg, hw)
    parts = {p.name: p for p in parity.run_parity(tmp_path) if p.ok is not None}
    assert parts.keys() == {
        *("dit.exactrope.stream", "vae.encode", "vae.encode_stream", "vae.decode", "vae.decode_stream"),
    }
    assert [p for p in parts.values() if not p.ok] == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:2000]), "cannot be read", id="cut short"),
        pytest.param(lambda p: p.write_bytes(b""), "cannot be read", id="empty"),
        pytest.param(lambda p: p.write_text("hello"), "cannot be read", id="text"),
        pytest.param(lambda p: save_file({"a": torch.zeros(1)}, p), "lacks", id="other tensors"),
    ],
)
@pytest.mark.parametrize("name", ["dit_weights", "dit_inputs", "vae_io"])
def test_damaged_sets_are_refused(damage: object, message: str, name: str, tmp_path: Path) -> None:
    write_set(tmp_path, BASE, (8, 8), num_blocks=1)
    damage(tmp_path / f"{name}.safetensors")  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        parity.run_parity(tmp_path)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        parity.run_parity(tmp_path / "nowhere")


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    parts = parity.run_parity(tmp_path)
    assert {p.ok for p in parts} == {None}
    with pytest.raises(InputError, match="holds no parity fixture"):
        parity.exit_code(parts)


def test_lines_and_json_say_the_same(trimmed: Path) -> None:
    (trimmed / "dit_inputs.safetensors").unlink()
    parts = parity.run_parity(trimmed)
    lines = parity.to_lines(parts).splitlines()
    rows = json.loads(parity.to_json(parts))
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]
    skipped = next(row for row in rows if row["name"] == "dit.exactrope.stream")
    assert skipped["skipped"]
    assert "dit_inputs" in skipped["detail"]
