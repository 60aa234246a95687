"""Files of a set: what is read, widened, and refused, and the configs that their metadata give."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveavatar.errors import InputError
from liveavatar.parity.fixtures import RELEASED_BEHAVIOUR, FixtureFile, Fixtures
from tests.parity.sets import BASE, write_dit, write_vae


@pytest.fixture
def file(tmp_path: Path) -> FixtureFile:
    tensors = {
        "a.x": torch.ones(2, dtype=torch.float16),
        "a.y": torch.ones(2, dtype=torch.bfloat16),
        "b": torch.ones(1),
    }
    save_file(tensors, tmp_path / "f.safetensors", {"hw": "[4, 8]", "text": "no json"})
    return Fixtures(tmp_path).file("f")


def test_only_fp16_is_widened(file: FixtureFile) -> None:
    assert (file["a.x"].dtype, file["a.y"].dtype) == (torch.float32, torch.bfloat16)


def test_tensors_below_a_prefix_lose_it(file: FixtureFile) -> None:
    assert file.below("a.").keys() == {"x", "y"}


def test_metadata_is_json(file: FixtureFile) -> None:
    assert file.meta("hw") == [4, 8]
    for key in ("text", "absent"):
        with pytest.raises(InputError, match=rf"f\.safetensors lacks readable metadata '{key}'"):
            file.meta(key)


def test_a_missing_tensor_is_named(file: FixtureFile) -> None:
    with pytest.raises(InputError, match=r"f\.safetensors lacks the tensor c"):
        file["c"]


def test_missing_files_with_and_without_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").touch()
    (tmp_path / "a.safetensors").touch()
    assert Fixtures(tmp_path).missing(("table.tsv", "a", "other.tsv", "b")) == ["other.tsv", "b"]


def rewrite(path: Path, **metadata: object) -> None:
    """Replace metadata of a file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        old = f.metadata()
    save_file(load_file(path), path, old | {k: json.dumps(v) for k, v in metadata.items()})


def test_sizes_are_read_off_the_set(tmp_path: Path) -> None:
    write_dit(tmp_path, BASE, (8, 24), num_blocks=1)
    fix = Fixtures(tmp_path)
    assert fix.latent_hw == (8, 24)
    assert len(fix.sigmas) == 4
    assert max(fix.sigmas) == 1
    cfg = fix.dit_config(rope_half=True)
    assert cfg.rope_half
    assert not fix.dit_config(rope_half=False).rope_half
    assert (cfg.audio_layers, cfg.window_latents) == (BASE.audio_layers, BASE.window_latents)
    for name, value in RELEASED_BEHAVIOUR.items():
        assert getattr(cfg, name) == value, name


def test_a_set_with_other_blocks_is_refused(tmp_path: Path) -> None:
    write_dit(tmp_path, BASE, (8, 8), num_blocks=1)
    rewrite(tmp_path / "dit_inputs.safetensors", frames_per_block=4)
    with pytest.raises(InputError, match="4 latents a block"):
        Fixtures(tmp_path).dit_config(rope_half=False)


def test_config_of_the_autoencoder(tmp_path: Path) -> None:
    write_vae(tmp_path)
    cfg = Fixtures(tmp_path).vae_config()
    assert (cfg.encoder_widths, cfg.decoder_widths, cfg.spatial_stride) == ((4, 8), (8, 4), 2)
    assert cfg.mean == pytest.approx((0.1, 0.2, 0.3))
    assert cfg.std == pytest.approx((1.0, 1.5, 2.0))
    raw = {"dim": 4, "dim_mult": [1, 2], "attn_scales": [0.5]}
    rewrite(tmp_path / "vae_weights.safetensors", config=raw)
    with pytest.raises(InputError, match=r"attn_scales \[0.5\]"):
        Fixtures(tmp_path).vae_config()
