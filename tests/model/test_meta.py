"""Networks without memory: the names and shapes of real ones, and no values."""

import torch
from torch import nn

from liveavatar.config import TINY
from liveavatar.model.dit import CausalDiT
from liveavatar.model.meta import without_memory
from liveavatar.model.text import PromptEncoder


def test_names_and_shapes_are_those_of_a_network_in_memory() -> None:
    for make in (lambda: CausalDiT(TINY.dit), lambda: PromptEncoder(TINY.text)):
        with without_memory():
            empty = make()
        assert all(p.is_meta for p in empty.parameters())
        assert {n: p.shape for n, p in empty.named_parameters()} == {n: p.shape for n, p in make().named_parameters()}


def test_initial_values_are_left_out_inside_only() -> None:
    with without_memory():
        assert nn.init.normal_(torch.empty(3)).is_meta
        assert torch.empty(3).normal_().is_meta
    torch.manual_seed(0)
    assert nn.init.normal_(torch.zeros(1000), std=2.0).std().item() > 1.8
