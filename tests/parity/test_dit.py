"""The transformer's scenarios on the reference's tensors and on sets of other sizes; a wrong engine fails."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from liveavatar import parity
from liveavatar.config import DiTConfig
from liveavatar.model.dit import CausalDiT
from liveavatar.parity import dit
from liveavatar.parity.fixtures import Fixtures
from tests.parity.sets import BASE, change, write_dit

OTHER_SIZES = [
    pytest.param(BASE, (16, 8), id="three heads, latents taller than wide"),
    pytest.param(replace(BASE, num_heads=2, in_dim=8, out_dim=8, cond_dim=8), (8, 8), id="eight channels, square"),
    pytest.param(replace(BASE, window_latents=6, audio_layers=25), (8, 24), id="ring of two blocks, wide"),
    pytest.param(replace(BASE, num_layers=4, audio_inject_layers=(0, 1, 3), num_heads=4), (8, 8), id="four layers"),
]


@pytest.mark.parametrize(("cfg", "hw"), OTHER_SIZES)
def test_sets_of_other_sizes(cfg: DiTConfig, hw: tuple[int, int], tmp_path: Path) -> None:
    write_dit(tmp_path, cfg, hw)
    (part,) = (p for p in parity.run_parity(tmp_path, "dit.") if p.ok is not None)
    assert (part.name, part.ok) == ("dit.exactrope.stream", True), part


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("stream.block4.flow", "stream"),
        ("sampler.block5.x0", "sampler"),
        ("actors.flow", "actors"),
    ],
)
def test_a_wrong_engine_fails(key: str, part: str, trimmed: Path) -> None:
    change(trimmed / "dit_out_exactrope.safetensors", key, 0.05)
    by_name = {p.name: p.max_abs_difference for p in parity.run_parity(trimmed, "dit.exactrope")}
    ran = {name: d for name, d in by_name.items() if d is not None}
    assert [name for name, d in ran.items() if d > 0.04] == [f"dit.exactrope.{part}"]
    assert len(ran) >= 5


@pytest.mark.parametrize(
    ("file", "key", "part"),
    [
        ("motion_packer", "tokens", "motion_packer.tokens"),
        ("motion_packer", "rope_sin", "motion_packer.rope"),
        ("audio_encoder", None, "audio_encoder"),
    ],
)
def test_encoders_are_compared_alone(file: str, key: str | None, part: str, trimmed: Path) -> None:
    right = {p.name: p.max_abs_difference for p in parity.run_parity(trimmed, part)}
    names = Fixtures(trimmed).file(file).tensors
    change(trimmed / f"{file}.safetensors", key or next(k for k in names if k.endswith(".global")), 0.25)
    wrong = {p.name: p.max_abs_difference for p in parity.run_parity(trimmed, part)}
    assert right[part] is not None
    assert right[part] < 0.01
    assert wrong[part] == pytest.approx(0.25, abs=0.01)


def test_the_recorder_keeps_each_layer_before_and_after_its_injection(tmp_path: Path) -> None:
    write_dit(tmp_path, BASE, (8, 8), num_blocks=1)
    fix = Fixtures(tmp_path)
    bench = dit.DitBench(dit.load_dit(fix, False), fix.file("dit_inputs"), fix.sigmas, fix.latent_hw)
    sink = bench.prefill(bench.inputs["ref_latents"], bench.inputs["motion_latents"])
    with torch.no_grad():
        bench.flow(bench.noise(0), bench.sigmas[0], bench.conditions(0), (bench.ring(sink), sink), 0, 30)
    same = [torch.equal(before, after) for before, after in bench.dit.outputs]
    assert same == [layer not in BASE.audio_inject_layers for layer in range(BASE.num_layers)]
    assert isinstance(bench.dit, CausalDiT)
