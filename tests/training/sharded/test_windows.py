"""Windows of clips in files: what lies where, shares of ranks, and files that cannot be used."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from liveavatar.config import ModelConfig
from liveavatar.errors import InputError
from liveavatar.training.runtime import TrainRank
from liveavatar.training.sharded import options
from liveavatar.training.sharded.windows import ClipFiles, RandomWindows, WindowSize
from tests.training.sharded.conftest import tiny_args

CPU = torch.device("cpu")
ALONE = TrainRank(0, 1, CPU)


@pytest.fixture
def cfg(tmp_path: Path) -> ModelConfig:
    return options.model_config(tiny_args(tmp_path))


def clip(cfg: ModelConfig, value: float = 0.0, blocks: int = 4) -> dict[str, Tensor]:
    """A clip whose latents and features count time, from `value` on."""
    dit = cfg.dit
    times, frames = torch.arange(3 * blocks) + value, torch.arange(12 * blocks) + value
    return {
        "latents": times[None, :, None, None].expand(dit.in_dim, -1, 8, 8).half(),
        "reference": torch.full((dit.in_dim, 1, 8, 8), value),
        "features": frames.expand(dit.audio_layers, dit.audio_dim, -1).half(),
        "text": torch.ones(5, dit.text_dim),
    }


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def files(folder: Path, cfg: ModelConfig, rank: TrainRank = ALONE) -> ClipFiles:
    return ClipFiles(folder, cfg, 2, rank, torch.Generator().manual_seed(0))


def test_windows_are_runs_of_blocks_with_their_speech(cfg: ModelConfig, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", clip(cfg))
    sampler = files(tmp_path, cfg)
    assert sampler.size == WindowSize(2, 8, 8)
    starts = set()
    for _ in range(12):
        window = sampler.sample(2)
        first = window.latents[:, 0, 0, 0, 0]
        assert torch.equal(window.latents[:, 0, :, 0, 0], first[:, None] + torch.arange(6))
        assert torch.equal(window.features[:, 0, 0], 4 * first[:, None] + torch.arange(24))
        starts |= set(first.tolist())
    assert starts == {0, 3, 6}
    assert window.tokens.shape == (2, cfg.dit.text_len, cfg.dit.text_dim)
    assert window.tokens[:, 5:].abs().sum() == 0 < window.tokens[:, :5].min()
    assert bool((window.weights == 1).all())
    assert all(t.dtype == torch.float32 for t in (window.latents, window.reference, window.features, window.tokens))


def test_weights_of_cells_have_mean_one(cfg: ModelConfig, tmp_path: Path) -> None:
    weights = torch.ones(12, 8, 8)
    weights[:, :4] = 3
    save(tmp_path / "a.safetensors", clip(cfg) | {"weights": weights})
    window = files(tmp_path, cfg).sample(1)
    assert window.weights.shape == (1, 1, 6, 8, 8)
    assert float(window.weights[0, 0, 0, 0, 0]) == 1.5


def test_ranks_share_the_clips(cfg: ModelConfig, tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.safetensors", clip(cfg, value=100.0 * i))
    seen = []
    for rank in range(2):
        sampler = files(tmp_path, cfg, TrainRank(rank, 2, CPU))
        seen.append({float(sampler.sample(1).reference[0, 0, 0, 0, 0]) for _ in range(12)})
    assert seen == [{0.0, 200.0}, {100.0}]


def change(name: str, to: Tensor | None):
    def changed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        rest = {n: t for n, t in tensors.items() if n != name}
        return rest if to is None else rest | {name: to}

    return changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param(change("latents", torch.zeros(9, 12, 8, 8)), "latents is .9, 12, 8, 8., and", id="channels"),
        pytest.param(change("features", torch.zeros(3, 7, 48)), "features are 7 wide", id="width"),
        pytest.param(change("features", torch.zeros(3, 24, 30)), "speech to their end", id="short speech"),
        pytest.param(change("text", None), "is no clip", id="no text"),
        pytest.param(change("latents", None), "is no clip", id="no latents"),
    ],
)
def test_clips_that_cannot_be_used_are_named(cfg: ModelConfig, tmp_path: Path, changed, words: str) -> None:
    save(tmp_path / "a.safetensors", changed(clip(cfg)))
    with pytest.raises(InputError, match=words):
        files(tmp_path, cfg).sample(32)


def test_fewer_clips_than_ranks_are_refused(cfg: ModelConfig, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", clip(cfg))
    with pytest.raises(InputError, match="holds 1 clips"):
        files(tmp_path, cfg, TrainRank(0, 2, CPU))


def test_random_windows_have_the_shapes_of_clips(cfg: ModelConfig, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", clip(cfg))
    drawn = RandomWindows(cfg, WindowSize(2, 8, 8), torch.Generator().manual_seed(0)).sample(2)
    read = files(tmp_path, cfg).sample(2)
    for name in ("latents", "reference", "weights", "features", "tokens"):
        assert getattr(drawn, name).shape == getattr(read, name).shape, name
