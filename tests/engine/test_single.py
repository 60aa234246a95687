"""The reference of a stream that is anchored anew at its second clip, run through and resumed."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from liveavatar.engine.backend import Backend
from liveavatar.engine.denoiser import Denoiser, DenoiseSpec
from liveavatar.engine.single import Single

CLIP_BLOCKS = 4
FIRST = torch.full((1, 2, 1, 2, 2), 7.0)


@dataclass
class Recorder:
    """A denoiser that only notes when it was given another reference."""

    reanchors: bool
    position: int = 0
    anchored_at: list[int] = field(default_factory=list)
    references: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(reanchor=self.reanchors)
        self.spec = SimpleNamespace(clip_blocks=CLIP_BLOCKS)
        self.dit = SimpleNamespace(encode_audio=lambda features: features)

    def noise(self, index: int) -> Tensor:
        return torch.zeros(1)

    def queue(self, index: int, *_: Any) -> tuple[Tensor, tuple[float, ...]]:
        self.position = index + 1
        return torch.full((1, 2, 3, 2, 2), 7.0 + index), ()

    def reanchor(self, first_latent: Tensor) -> None:
        self.anchored_at.append(self.position)
        self.references.append(first_latent)

    @property
    def rings(self) -> dict[int, "Recorder"]:
        return {0: self}

    def tensors(self) -> dict[str, Tensor]:
        return {"position": torch.tensor(self.position)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.position = int(tensors["position"])


def placement(recorder: Recorder) -> Single:
    backend, spec = cast(Backend, recorder), cast(DenoiseSpec, recorder.spec)
    return Single(backend, spec, cast(Denoiser, recorder), lambda _: torch.zeros(1))


def queue(single: Single, blocks: range) -> None:
    for index in blocks:
        single.queue(index)


@pytest.mark.parametrize("reanchors", [True, False])
def test_the_first_latent_becomes_the_reference_before_the_second_clip(reanchors: bool) -> None:
    recorder = Recorder(reanchors)
    queue(placement(recorder), range(2 * CLIP_BLOCKS + 1))
    assert recorder.anchored_at == [CLIP_BLOCKS] * reanchors
    assert all(torch.equal(reference, FIRST) for reference in recorder.references)


@pytest.mark.parametrize(
    ("position", "on_load"),
    [
        pytest.param(CLIP_BLOCKS - 1, False, id="in the first clip"),
        pytest.param(CLIP_BLOCKS, False, id="before the block that anchors anew"),
        pytest.param(CLIP_BLOCKS + 1, True, id="after it"),
    ],
)
def test_a_resumed_stream_is_anchored_anew_once(position: int, on_load: bool) -> None:
    recorder = Recorder(reanchors=True)
    single = placement(recorder)
    single.load(position, {"cache0.position": torch.tensor(position)}, FIRST)
    assert bool(recorder.anchored_at) == on_load
    queue(single, range(position, 2 * CLIP_BLOCKS + 1))
    assert recorder.anchored_at == [position if on_load else CLIP_BLOCKS]
    assert torch.equal(recorder.references[0], FIRST)


def test_a_model_without_it_is_not_anchored_on_resume() -> None:
    recorder = Recorder(reanchors=False)
    placement(recorder).load(CLIP_BLOCKS + 3, {"cache0.position": torch.tensor(CLIP_BLOCKS + 3)}, FIRST)
    assert not recorder.anchored_at
