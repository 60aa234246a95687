"""Sets of adapters: on the Linears of the published file, one in use at a time, and new ones without effect."""

import torch

from liveavatar.checkpoints.lora import LowRank, parse_lora
from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.model.dit import CausalDiT
from liveavatar.model.meta import without_memory
from liveavatar.training.sharded import adapters
from liveavatar.training.sharded.adapters import FAKE, STUDENT, AdapterShape, Switch


def names_of_the_14b() -> set[str]:
    with without_memory():
        return {name for name, _ in CausalDiT(LIVE_AVATAR_14B.dit).named_parameters()}


def test_linears_are_those_of_the_published_adapter() -> None:
    with without_memory():
        dit = CausalDiT(LIVE_AVATAR_14B.dit)
    adapters.attach(dit, AdapterShape(), Switch())
    student = adapters.adapters_of(dit, STUDENT)
    assert len(student) == 896
    assert sum(p.numel() for p in student.values()) == 676_331_520
    assert student["blocks.0.ffn.2.lora_A.default.weight"].shape == (128, 13824)
    assert student["audio_injector.injector.11.o.lora_B.default.weight"].shape == (5120, 128)
    assert len(parse_lora(student, alpha=64.0)) == 448
    base = adapters.base_of(dit)
    assert base.keys() == names_of_the_14b()
    assert not any(p.requires_grad for p in base.values())
    assert all(p.requires_grad for p in adapters.adapters_of(dit, FAKE).values())


def test_the_chosen_set_is_in_use_and_after_a_block_the_one_before() -> None:
    switch = Switch()
    with switch.choose(STUDENT):
        with switch.choose(None):
            assert switch.chosen is None
        assert switch.chosen == STUDENT
    assert switch.chosen is None


def test_new_pairs_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    a = adapters.initial_pair(torch.Size((4, 100)), "A", generator)
    assert 0.08 < float(a.abs().max()) <= 0.1
    assert not adapters.initial_pair(torch.Size((100, 4)), "B", generator).any()


def test_a_given_pair_keeps_its_effect_at_another_rank_and_strength() -> None:
    update = LowRank(torch.randn(2, 5), torch.randn(7, 2), scale=0.5)
    shape = AdapterShape(rank=4, alpha=12.0)
    a, b = (adapters.given_pair(update, side, shape) for side in "AB")
    assert (a.shape, b.shape) == ((4, 5), (7, 4))
    torch.testing.assert_close(shape.scale * b @ a, 0.5 * update.b @ update.a)
