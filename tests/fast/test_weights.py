"""Fused weights: the right layers in the right order, taken from their source; 8 bits close; offloaded ones equal."""

import copy
from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.fast import accelerate
from liveavatar.fast.reference import quantise_rows
from liveavatar.fast.weights import Layers, LayerWeights, Linear, Streamed, pack, pack_layers, piece_sizes
from liveavatar.model.dit import CausalDiT
from tests.fast.small import SMALL_DIT

CPU = torch.device("cpu")


def linears(count: int, inputs: int = 32, outputs: int = 16) -> list[nn.Linear]:
    torch.manual_seed(1)
    return [nn.Linear(inputs, outputs).requires_grad_(False) for _ in range(count)]


def sources(dit: CausalDiT, index: int) -> dict[str, list[nn.Linear]]:
    """Layers of the plain transformer that each fused one stands for, in order."""
    block, number = dit.blocks[index], dit.injector_of.get(index)
    audio = {} if number is None else {"q": dit.audio_injector.injector[number].q}
    own = {
        "qkv": [block.self_attn.q, block.self_attn.k, block.self_attn.v],
        "o": [block.self_attn.o],
        "cross_q": [block.cross_attn.q],
        "cross_o": [block.cross_attn.o],
        "up": [block.ffn[0]],
        "down": [block.ffn[2]],
    }
    if audio and number is not None:
        own |= {"audio_q": [audio["q"]], "audio_o": [dit.audio_injector.injector[number].o]}
    return own


def test_packed_layers_give_the_outputs_of_each_side_by_side() -> None:
    layers = linears(3)
    x = torch.randn(5, 32)
    wanted = torch.cat([layer(x) for layer in layers], dim=-1)
    packed = pack(layers, False, CPU)
    assert not packed.quantised
    torch.testing.assert_close(packed(x), wanted)
    assert [layer.weight.numel() for layer in layers] == [0, 0, 0], "no second copy"


def test_8_bits_are_close_and_quantise_their_input_once() -> None:
    layers = linears(2)
    x = torch.randn(5, 32)
    wanted = torch.cat([layer(x) for layer in layers], dim=-1)
    packed = pack(layers, True, CPU)
    assert packed.quantised
    assert packed.weight.dtype == torch.float8_e4m3fn
    got = packed(x)
    assert 1e-4 < float((got - wanted).norm() / wanted.norm()) < 0.05
    assert torch.equal(packed(quantise_rows(x)), got)


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 16), (32, 20)], ids=["inputs", "outputs"])
def test_a_layer_that_8_bit_products_cannot_take_stays_as_it_is(inputs: int, outputs: int) -> None:
    layers = linears(1, inputs, outputs)
    weight = layers[0].weight.clone()
    packed = pack(layers, True, CPU)
    assert not packed.quantised
    assert torch.equal(packed.weight, weight)


def layer_linears(layers: Layers, index: int) -> dict[str, Linear]:
    found = layers.use(index).linears()
    layers.done()
    return found


@pytest.mark.parametrize("offload", [False, True], ids=["resident", "offloaded"])
def test_every_fused_layer_is_made_of_its_own_sources(dit: CausalDiT, offload: bool) -> None:
    layers = pack_layers(copy.deepcopy(dit), False, offload, CPU)
    assert len(layers) == SMALL_DIT.num_layers
    for index in (0, 1, 2, 0, 2, 1):  # in order, from the start again, and out of order
        found, wanted = layer_linears(layers, index), sources(dit, index)
        assert found.keys() == wanted.keys()
        assert ("audio_q" in found) == (index in SMALL_DIT.audio_inject_layers)
        for name, parts in wanted.items():
            assert torch.equal(found[name].weight, torch.cat([part.weight for part in parts])), (index, name)
            assert torch.equal(found[name].bias, torch.cat([part.bias for part in parts])), (index, name)


def test_a_layer_in_use_is_not_overwritten_by_the_one_that_arrives(dit: CausalDiT) -> None:
    layers = pack_layers(copy.deepcopy(dit), False, True, CPU)
    used = layers.use(0)  # the next one is arriving
    assert torch.equal(used.o.weight, dit.blocks[0].self_attn.o.weight)
    layers.done()
    following = layers.use(1)
    assert torch.equal(following.o.weight, dit.blocks[1].self_attn.o.weight)


def test_offloaded_8_bit_layers_equal_resident_ones(dit: CausalDiT) -> None:
    here, there = (pack_layers(copy.deepcopy(dit), True, offload, CPU) for offload in (False, True))
    for index in range(SMALL_DIT.num_layers):
        ours, theirs = layer_linears(here, index), layer_linears(there, index)
        for name, linear in ours.items():
            assert torch.equal(linear.weight.view(torch.uint8), theirs[name].weight.view(torch.uint8))
            assert linear.scale is None or torch.equal(linear.scale, theirs[name].scale)  # type: ignore[arg-type]


def test_weights_elsewhere_keep_biases_and_scales() -> None:
    packed = pack(linears(1), True, CPU)
    names = [field.name for field in fields(LayerWeights) if not field.name.startswith("audio")]
    layer = LayerWeights(**dict.fromkeys(names, packed))
    assert list(layer.linears()) == names
    moved = layer.with_weights({"down": torch.zeros_like(packed.weight)})
    assert not moved.down.weight.float().any()
    assert moved.down.scale is packed.scale
    assert moved.up is packed
    with pytest.raises(KeyError):
        layer.with_weights({"audio_q": packed.weight})


def test_a_plain_layer_computes_as_torch_does() -> None:
    weight, bias, x = torch.randn(4, 3), torch.randn(4), torch.randn(2, 3)
    assert torch.equal(Linear(weight, bias)(x), F.linear(x, weight, bias))
    moved: Tensor | None = Linear(weight, None).to(CPU).bias
    assert moved is None


def test_host_memory_is_counted(dit: CausalDiT) -> None:
    layers = pack_layers(copy.deepcopy(dit), False, True, CPU)
    assert isinstance(layers, Streamed)
    weights = sum(p.weight.numel() for i in range(SMALL_DIT.num_layers) for ps in sources(dit, i).values() for p in ps)
    assert 4 * weights <= layers.host_bytes < 4 * weights + SMALL_DIT.num_layers * 8 * 256


def test_weights_move_instead_of_being_copied(dit: CausalDiT) -> None:
    source = copy.deepcopy(dit)
    accelerate(source)
    left = sum(
        p.numel() for name, p in source.named_parameters() if name.endswith((".q.weight", ".k.weight", ".o.weight"))
    )
    assert left == 0


def test_offloaded_layers_are_rounded_up_by_little() -> None:
    """Pinned memory comes in powers of two: a layer of the 14B in one piece would take nearly twice its bytes."""
    D, ffn = LIVE_AVATAR_14B.dit.dim, LIVE_AVATAR_14B.dit.ffn_dim
    for size in (6 * D * D + 2 * D * ffn, 8 * D * D + 2 * D * ffn, 256, 1 << 20):
        pieces = piece_sizes(size)
        assert sum(pieces) == size
        assert min(pieces) > 0
        assert sum(1 << (n - 1).bit_length() for n in pieces) < 1.02 * size
