"""The ring of keys and values: sink first, the newest tokens behind it, the oldest overwritten."""

import pytest
import torch

from liveavatar.model.kv_ring import KVRing, Sink

WINDOW, BLOCK, SINK = 6, 2, 3  # tokens


def numbered(start: int, count: int) -> torch.Tensor:
    """Make keys [1, 1, count, 1] that name their token."""
    return torch.arange(start, start + count, dtype=torch.float32)[None, None, :, None]


@pytest.fixture
def buffer() -> KVRing:
    """The ring of one layer whose sink is -1, -2, -3."""
    sink = -1 - numbered(0, SINK)
    buffer = KVRing(Sink([sink], [10 * sink], num_reference=1), WINDOW)
    buffer.write_sink_keys(0, sink)
    return buffer


@pytest.mark.parametrize(
    ("blocks", "kept"),
    [
        pytest.param(1, [0, 1], id="one block"),
        pytest.param(3, [0, 1, 2, 3, 4, 5], id="full"),
        pytest.param(4, [6, 7, 2, 3, 4, 5], id="the oldest block is overwritten"),
        pytest.param(8, [12, 13, 14, 15, 10, 11], id="round more than twice"),
    ],
)
def test_the_newest_tokens_are_visible_behind_the_sink(buffer: KVRing, blocks: int, kept: list[int]) -> None:
    for block in range(blocks):
        start = block * BLOCK
        buffer.write(0, start, numbered(start, BLOCK), 10 * numbered(start, BLOCK))
    k, v = buffer.view(0, blocks * BLOCK)
    assert k.flatten().tolist() == [-1, -2, -3, *kept]
    assert torch.equal(v, 10 * k)


def test_a_loaded_ring_is_the_saved_one(buffer: KVRing) -> None:
    buffer.write(0, 0, numbered(0, BLOCK), numbered(0, BLOCK))
    saved = {name: tensor.clone() for name, tensor in buffer.tensors().items()}
    buffer.write(0, 0, numbered(7, BLOCK), numbered(7, BLOCK))
    buffer.load(saved)
    assert buffer.view(0, BLOCK)[0].flatten().tolist() == [-1, -2, -3, 0, 1]
