"""Groups of comparisons: which run, which are skipped and why, and sets that do not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from liveavatar import parity
from liveavatar.errors import InputError
from liveavatar.parity import checks
from liveavatar.parity.checks import CheckGroup
from liveavatar.parity.report import skipped
from tests.parity.sets import BASE, write_dit, write_vae

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


def test_nothing_required_is_left_out() -> None:
    names = [name for group in parity.GROUPS for name in group.names]
    assert set(names) >= set(REQUIRED)


def test_every_group_yields_the_parts_it_names(trimmed: Path) -> None:
    ran = [g for g in parity.GROUPS if not [f for f in g.files if not (trimmed / f"{f}.safetensors").is_file()]]
    parts = [p.name for p in parity.run_parity(trimmed) if p.detail.find("the set has no") < 0]
    assert parts == [name for group in ran for name in group.names]
    assert len(ran) >= 4


def test_a_prefix_selects_groups(trimmed: Path) -> None:
    names = {p.name for p in parity.run_parity(trimmed, "scheduler.euler")}
    assert names == {"scheduler.sigmas", "scheduler.euler_fp32", "scheduler.euler_bf16"}
    assert parity.run_parity(trimmed, "nothing") == []


GROUP = CheckGroup(names=("a", "b"), files=(), tolerance=0.5, check=lambda _: iter([skipped("a", 0.5, "ran")]))


@pytest.mark.parametrize(
    ("group", "detail"),
    [
        pytest.param(replace(GROUP, files=("x", "y.tsv")), "skipped: the set has no x, y.tsv", id="files"),
        pytest.param(replace(GROUP, requires=("os", "nosuch")), "skipped: needs the package nosuch", id="packages"),
    ],
)
def test_what_cannot_be_checked_says_why(
    group: CheckGroup, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "GROUPS", (group,))
    parts = parity.run_parity(tmp_path)
    assert [(p.name, p.ok, p.tolerance, p.detail) for p in parts] == [
        ("a", None, 0.5, detail),
        ("b", None, 0.5, detail),
    ]


def test_a_set_that_does_not_fit_the_engine_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise IndexError("index 3 is out of bounds\nmore")

    monkeypatch.setattr(checks, "GROUPS", (replace(GROUP, check=fails),))
    with pytest.raises(InputError, match=r"do not fit .* \(IndexError: index 3 is out of bounds\)"):
        parity.run_parity(tmp_path)


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
    write_dit(tmp_path, BASE, (8, 8), num_blocks=1)
    write_vae(tmp_path)
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
