"""Memory and work on paper: counts of weights, what a layer keeps, and machines that fit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.hardware import parse_gpus
from liveavatar.model.dit import CausalDiT, WindowConditions
from liveavatar.training.sharded import memory
from liveavatar.training.sharded.adapters import SETS, STUDENT, AdapterShape, Switch, adapters_of, attach
from liveavatar.training.sharded.memory import ShardedRun
from liveavatar.training.sharded.windows import WindowSize

WHOLE = ShardedRun(
    model=LIVE_AVATAR_14B,
    size=WindowSize(7, 48, 88),
    batch=1,
    adapters=AdapterShape(),
    world=8,
    guidance=True,
    anchor=False,
    causal_scores=False,
)


def test_weights_of_the_14b_and_its_adapters() -> None:
    counts = memory.count_weights(LIVE_AVATAR_14B.dit, AdapterShape())
    assert counts.adapters == 676_331_520
    assert counts.layers + counts.outside == 16_295_755_609
    assert 40 * counts.largest_layer > counts.layers


@pytest.mark.parametrize(("gpus", "fit"), [("8x80GB", True), ("4x48GB", True), ("8x24GB", False), ("1x48GB", False)])
def test_machines_that_fit(gpus: str, fit: bool) -> None:
    cards = parse_gpus(gpus)
    assert memory.fits(replace(WHOLE, world=len(cards)), cards[0]) == fit


def test_ranks_divide_weights_but_not_activations() -> None:
    one, eight = memory.memory(replace(WHOLE, world=1)), memory.memory(WHOLE)
    for part in ("frozen base", "adapters, moments, average, gradients"):
        assert one[part] == pytest.approx(8 * eight[part])
    for part in ("inputs of layers", "one layer"):
        assert one[part] == eight[part]
    assert one["frozen base"] == pytest.approx(16_295_755_609 * 2 / 2**30)


def kept_by_a_layer(run: ShardedRun) -> int:
    """Bytes that the first layer saves for its gradients, weights and rotations left out."""
    dit = CausalDiT(run.dit).to(torch.bfloat16)
    switch = Switch()
    attach(dit, run.adapters, switch)
    for chosen in SETS:
        for p in adapters_of(dit, chosen).values():
            p.data = torch.zeros_like(p, dtype=torch.bfloat16)
    known = {p.untyped_storage().data_ptr() for p in dit.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and tensor.shape[-1] != run.dit.head_dim // 2:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def layer(index: int, x: Tensor, s: Tensor, cond: WindowConditions) -> tuple[Tensor, Tensor]:
        inputs = (t.detach().requires_grad_(True) for t in (x, s))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            return CausalDiT.window_layer(dit, index, *inputs, cond)

    dit.window_layer = layer  # type: ignore[method-assign]
    cfg, size = run.dit, run.size
    x = torch.randn(run.batch, cfg.in_dim, size.num_latents, size.h, size.w)
    still = x[:, :, :1].expand(-1, -1, cfg.motion_latents, -1, -1)
    text, speech = (
        torch.randn(1, 8, cfg.text_dim),
        torch.randn(1, cfg.audio_layers, cfg.audio_dim, 12 * size.num_blocks),
    )
    with switch.choose(STUDENT):
        dit.forward_window(x, torch.full((1, size.num_blocks), 0.5), (x[:, :, :1], still), text, speech)
    return sum(kept.values())


def test_a_layer_keeps_what_the_model_of_memory_says() -> None:
    dit = replace(
        LIVE_AVATAR_14B.dit, dim=256, num_heads=2, ffn_dim=691, num_layers=1, audio_inject_layers=(0,), text_dim=16,
        text_len=8, audio_dim=24, audio_layers=3,
    )  # fmt: skip
    run = replace(
        WHOLE, model=replace(LIVE_AVATAR_14B, dit=dit), size=WindowSize(7, 16, 16), adapters=AdapterShape(4, 2.0)
    )
    assert memory.kept_bytes(run) == pytest.approx(kept_by_a_layer(run), rel=0.03)


@pytest.mark.parametrize(
    ("changes", "student", "expected"),
    [
        pytest.param({}, False, (1.44 + 1, 3), id="fake score"),
        pytest.param({}, True, (1.44 + 3, 2 + 1 + 3), id="both"),
        pytest.param({"guidance": False}, True, (1.44 + 3, 1 + 1 + 3), id="no guidance"),
        pytest.param({"anchor": True}, True, (1.44 + 6, 2 + 1 + 8 + 3), id="anchor"),
    ],
)
def test_forwards_of_an_update(changes: dict[str, bool], student: bool, expected: tuple[float, float]) -> None:
    counted = memory.forwards(replace(WHOLE, **changes), student)
    assert (counted.student, counted.scores) == pytest.approx(expected)


def test_work_grows_with_depth_and_batch() -> None:
    half = replace(WHOLE.dit, num_layers=20, audio_inject_layers=(0, 4, 8, 12, 16, 18))
    of_half = memory.update_flop(replace(WHOLE, model=replace(LIVE_AVATAR_14B, dit=half)))
    assert memory.update_flop(WHOLE) == pytest.approx(2 * of_half, rel=1e-6)
    assert memory.update_flop(replace(WHOLE, batch=2)) == pytest.approx(2 * memory.update_flop(WHOLE))
    assert memory.forward_flop(WHOLE) == pytest.approx(868e12, rel=0.01)
    # 24,816 tokens that attend to all, instead of 12,597 on average
    assert memory.forward_flop(WHOLE, causal=False) == pytest.approx(1159e12, rel=0.03)
