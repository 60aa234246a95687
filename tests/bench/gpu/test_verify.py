"""Every fast path is compared with the plain one; one that is off fails, and only that one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu import verify
from liveavatar.bench.gpu.build import DRY, Mode

CPU = torch.device("cpu")


def engine(latents: torch.Tensor) -> Any:
    stream = SimpleNamespace(blocks=lambda: iter([SimpleNamespace(latents=latents)]))
    runners = SimpleNamespace(current=SimpleNamespace(forget_graphs=lambda: None))
    return SimpleNamespace(open=lambda job: stream, backend=SimpleNamespace(runners=runners))


class Identity:
    """An autoencoder, and the fast form of it, that change nothing."""

    def __init__(self, *_: object) -> None: ...

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decoder_state(self, *_: object) -> None: ...

    def decode_stream(self, x: torch.Tensor, state: None) -> torch.Tensor:
        return x

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        return torch.ones(2)

    def encode_still(self, picture: torch.Tensor, latents: int) -> torch.Tensor:
        return torch.ones(2)


@pytest.mark.parametrize(
    ("mode", "by", "failed"),
    [
        pytest.param("", 0.0, set(), id="all agree"),
        pytest.param("bf16", 0.0011, {"fast bf16 against fp32"}, id="bf16 has the tightest limit"),
        pytest.param("fp8", 0.21, {"fast fp8 against fp32", "recorded graphs against launched kernels"}, id="fp8"),
        pytest.param(
            "fp8 + fp8 rings, offloaded", 0.001, {"offloaded against resident"}, id="offloaded is not the resident"
        ),
    ],
)
def test_a_path_that_is_off_fails(mode: str, by: float, failed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = torch.ones(2, 3), []

    def fast(config: object, asked: Mode, *_: object) -> Any:
        calls.append(asked.name)
        recorded = asked.name == mode and calls.count(mode) == 1
        return engine(right * (1 + by * recorded))

    monkeypatch.setattr(verify, "plain_engine", lambda *_: engine(right))
    monkeypatch.setattr(verify, "fast_engine", fast)
    monkeypatch.setattr(verify, "random_vae", Identity)
    for name in ("FastDecoder", "FastEncoder"):
        monkeypatch.setattr(verify, name, Identity)
    monkeypatch.setattr(verify, "release", lambda: None)
    rows = verify.verify(DRY, (16, 16), CPU, torch.float32)
    assert {row["name"] for row in rows if not row["passed"]} == failed
    assert len(rows) == 14


@pytest.mark.nightly
def test_all_paths_agree_on_the_cpu() -> None:
    rows = verify.verify(DRY, (64, 64), CPU, torch.float32)
    assert [row["name"] for row in rows if not row["passed"]] == []
    assert {row["name"] for row in rows if row["distance"] > 1e-3} >= {"fast fp8 against fp32"}
