"""Merge of a LoRA, sizes, pictures and resampled features against numbers that are known beforehand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from liveavatar import parity
from liveavatar.errors import InputError
from liveavatar.parity import conditioning
from tests.checkpoints.weights import PLAIN, TARGETS, lora_pairs
from tests.parity.sets import change


def found(directory: Path, prefix: str) -> dict[str, bool | None]:
    return {p.name: p.ok for p in parity.run_parity(directory, prefix)}


def write_lora(directory: Path, changed: int = 2) -> None:
    """Two weights, the LoRA of both, and the sums of the first `changed` of them."""
    weights = {f"{name}.weight": torch.ones(shape) for name, shape in TARGETS.items()}
    pairs = lora_pairs(TARGETS, 2, PLAIN)
    merged = {
        f"{name}.weight": 1 + 1.5 / 2 * pairs[PLAIN.format(name, "B")] @ pairs[PLAIN.format(name, "A")]
        for name in list(TARGETS)[:changed]
    }
    save_file(weights, directory / "dit_weights.safetensors")
    save_file(pairs, directory / "lora_file.safetensors", {"rank": "2", "alpha": "1.5"})
    save_file(merged, directory / "lora_merged.safetensors")


def test_lora_adds_its_scaled_product(tmp_path: Path) -> None:
    write_lora(tmp_path)
    assert found(tmp_path, "lora") == {"lora.merge": True}
    change(tmp_path / "lora_merged.safetensors", "blocks.0.ffn.0.weight", 2e-5)
    assert found(tmp_path, "lora") == {"lora.merge": False}


def test_a_weight_that_the_reference_left_alone_must_not_change(tmp_path: Path) -> None:
    write_lora(tmp_path, changed=1)
    (part,) = parity.run_parity(tmp_path, "lora")
    assert part.ok is False
    assert part.detail.endswith("blocks.0.ffn.0.weight (must not change)")


SIZES = "in_w\tin_h\tsize_flag\tout_w\tout_h\n640\t360\t384*256\t384\t256\n"


@pytest.mark.parametrize(("table", "ok"), [(SIZES, True), (SIZES.replace("384\t256\n", "384\t192\n"), False)])
def test_sizes_of_a_table(table: str, ok: bool, tmp_path: Path) -> None:
    (tmp_path / conditioning.SIZE_TABLE).write_text(table)
    assert found(tmp_path, "ref_size") == {"ref_size": ok}


@pytest.mark.parametrize("damage", [("384*256", "384"), ("640", "wide"), ("out_h", "height")])
def test_a_damaged_table_is_refused(damage: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / conditioning.SIZE_TABLE).write_text(SIZES.replace(*damage))
    with pytest.raises(InputError, match=r"ref_size_table\.tsv is damaged"):
        parity.run_parity(tmp_path, "ref_size")


@pytest.mark.parametrize(("key", "ok"), [(None, True), ("p.out_rgb_hwc_u8", False), ("p.pixel_values_minmax", False)])
def test_a_picture_of_the_videos_size_stays_as_it_is(key: str | None, ok: bool, tmp_path: Path) -> None:
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (256, 384, 3), dtype=np.uint8))
    extremes = torch.tensor([picture.min(), picture.max()], dtype=torch.float32) / 127.5 - 1
    tensors = {"p.in_rgb_hwc_u8": picture, "p.out_rgb_hwc_u8": picture.clone(), "p.pixel_values_minmax": extremes}
    save_file(tensors, tmp_path / "ref_image.safetensors")
    if key is not None:
        change(tmp_path / "ref_image.safetensors", key, 1)
    assert found(tmp_path, "ref_image") == {"ref_image": ok}


def write_ramp(directory: Path) -> None:
    """One hidden state that is its own time: 2 s at 50 Hz, so 60 values at 30 Hz and 48 video frames a clip."""
    at30 = torch.linspace(0, 1, 60)[None, :, None]
    index = torch.round(torch.arange(96) / 25 * 30).long()
    own = torch.where(index < 60, at30[0, index.clamp(max=59), 0], torch.tensor(0.0))
    around = [at30[0, (index + k).clamp(0, 59), 0] * (index < 60) for k in (-1, 0, 1)]
    tensors = {
        "r.hidden50": torch.linspace(0, 1, 100)[None, :, None], "r.feat30": at30,
        "r.fps_batch_nclips": torch.tensor([25, 48, 2]), "r.bucket": own, "r_m1.bucket": torch.stack(around, 1),
    }  # fmt: skip
    save_file({k: v.contiguous() for k, v in tensors.items()}, directory / "audio_bucket.safetensors")


@pytest.mark.parametrize(
    ("key", "failed"),
    [
        pytest.param(None, set(), id="right"),
        pytest.param("r.hidden50", {"audio_bucket.stretch"}, id="stretched"),
        pytest.param("r.bucket", {"audio_bucket.frames"}, id="frames"),
        pytest.param("r_m1.bucket", {"audio_bucket.frames"}, id="frames with neighbours"),
    ],
)
def test_features_of_a_ramp(key: str | None, failed: set[str], tmp_path: Path) -> None:
    write_ramp(tmp_path)
    if key is not None:
        change(tmp_path / "audio_bucket.safetensors", key, 1e-5)
    parts = found(tmp_path, "audio_bucket")
    assert parts == {name: name not in failed for name in ("audio_bucket.stretch", "audio_bucket.frames")}
