"""Self-attention alone: the error of each backend on keys of every kind."""

import torch

from liveavatar.bench.gpu.attention import KEYS, draw, measure_attention
from liveavatar.bench.gpu.build import DRY

CPU = torch.device("cpu")


def test_keys_are_what_their_kind_says() -> None:
    drawn = {kind: draw(kind, (2, 40, 600, 32), CPU)[1] for kind in KEYS}
    spread = {kind: k.std(dim=1) for kind, k in drawn.items()}
    common = {kind: k.mean(dim=1).norm(dim=-1).min() for kind, k in drawn.items()}
    for kind in KEYS[1:]:
        assert (spread[kind][:, 7] > 4 * spread[kind][:, :7].amax(dim=1)).all(), "one channel outlies the others"
    assert (spread["noise"] < 1.2).all()
    assert common["outliers and a common mean"] > 3 * common["outliers"]


def test_8_bit_attention_is_near_to_fp32() -> None:
    rows = measure_attention(DRY, (128, 64), CPU, torch.float32)
    assert [(row["keys"], row["backend"]) for row in rows] == [
        (kind, name) for kind in KEYS for name in ("int8", "e4m3")
    ]
    for row in rows:
        assert 1e-4 < row["error"] < {"int8": 0.1, "e4m3": 0.2}[row["backend"]]
        assert row["largest"] < 0.3
