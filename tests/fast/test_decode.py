"""The decoder at fixed addresses: frames of the plain decoder, block after block, stream after stream."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from liveavatar.config import TINY
from liveavatar.engine.plain import image_tensor, plain_decoder
from liveavatar.engine.threads import Threads
from liveavatar.fast.decode import DecodeRunner, OwnDecoder
from liveavatar.fast.vae import FastDecoder
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.model.vae_wan import WanVAE

CPU = torch.device("cpu")
SIZE = (3, 5)


@pytest.fixture
def runner(vae: WanVAE) -> DecodeRunner:
    return DecodeRunner(FastDecoder(copy.deepcopy(vae)), SIZE, torch.float32, CPU)


def still(seed: int, count: int = 19) -> torch.Tensor:
    return torch.randn(1, 4, count, *SIZE, generator=torch.Generator().manual_seed(seed))


def blocks(seed: int) -> list[torch.Tensor]:
    return list(still(100 + seed, 9).split(3, dim=2))


def plain(vae: WanVAE, seed: int, primed: int) -> list[np.ndarray]:
    vae = copy.copy(vae)
    image = np.zeros((24, 40, 3), np.uint8)  # Wan's decoder copies nothing from it
    decoder = plain_decoder(vae, still(seed, primed), image, Threads(1, shared=False))
    return [decoder.run(x, index).frames for index, x in enumerate(blocks(seed))]


def near(got: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == (12, 24, 40, 3)
        assert np.abs(a.astype(int) - b).max() <= 1


@pytest.mark.parametrize("primed", [1, 2, 3, 4, 7])
def test_frames_are_those_of_the_plain_decoder(runner: DecodeRunner, vae: WanVAE, primed: int) -> None:
    runner.begin(still(0, primed))
    near([runner.decode(x) for x in blocks(0)], plain(vae, 0, min(primed, vae.config.prime_latents)))
    assert runner.state.position == primed + 9


def test_a_stream_takes_over_the_buffers_and_nothing_in_them(runner: DecodeRunner) -> None:
    def made(seed: int) -> list[np.ndarray]:
        runner.begin(still(seed, 4))
        return [runner.decode(x) for x in blocks(seed)]

    address = runner.frames.data_ptr()
    first = made(0)
    other = made(1)
    assert all(np.array_equal(a, b) for a, b in zip(made(0), first, strict=True))
    assert not np.array_equal(other[0], first[0])
    assert runner.frames.data_ptr() == address


def test_frames_are_copies_and_fill_the_range(runner: DecodeRunner) -> None:
    runner.begin(still(0, 2))
    first = runner.decode(blocks(0)[0])
    kept = first.copy()
    runner.decode(50 * blocks(0)[1])
    assert np.array_equal(first, kept)
    assert (runner.frames.min(), runner.frames.max()) == (0, 255), "clamped, not wrapped"


@torch.inference_mode()
def test_a_restored_state_goes_on(runner: DecodeRunner, vae: WanVAE) -> None:
    runner.begin(still(0, 2))
    runner.decode(blocks(0)[0])
    saved = {name: t.clone() for name, t in runner.state.tensors().items()}
    wanted = runner.decode(blocks(0)[1])
    other = DecodeRunner(FastDecoder(copy.deepcopy(vae)), SIZE, torch.float32, CPU)
    other.begin(still(5, 2))
    other.state.load(saved)
    assert np.array_equal(other.decode(blocks(0)[1]), wanted)


class _Graphs:
    """Stands for a GPU: a graph is recorded at the second call, and beside it nothing else has room."""

    def __init__(self) -> None:
        self.held, self.replaying, self.recordings = False, False, 0

    def recorded(self, work: Callable[[], None], *_: Any, **__: Any) -> "_Recorded":
        return _Recorded(work, self)

    def crowded(self, made: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def decode(*args: Any) -> torch.Tensor:
            if self.held and not self.replaying:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 594.00 MiB.")
            return made(*args)

        return decode


class _Recorded:
    def __init__(self, work: Callable[[], None], graphs: _Graphs) -> None:
        self.work, self.graphs, self.enabled, self.calls = work, graphs, True, 0
        self.graph: object | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.enabled and self.graph is None and self.calls > 1:
            self.graph, self.graphs.held = object(), True
            self.graphs.recordings += 1
        self.graphs.replaying = True
        self.work()
        self.graphs.replaying = False

    def forget(self) -> None:
        self.enabled, self.graph, self.graphs.held = False, None, False


def test_a_graph_that_leaves_no_room_to_start_a_stream_is_let_go(
    vae: WanVAE, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graphs = _Graphs()
    monkeypatch.setattr("liveavatar.fast.decode.RecordedGraph", graphs.recorded)
    for name in ("decode_stream", "prime_stream"):
        monkeypatch.setattr(FastDecoder, name, graphs.crowded(getattr(FastDecoder, name)))
    tight = DecodeRunner(FastDecoder(copy.deepcopy(vae)), SIZE, torch.float32, CPU)
    for seed in (0, 1):
        tight.begin(still(seed, 7))
        near([tight.decode(x) for x in blocks(seed)], plain(vae, seed, vae.config.prime_latents))
    assert graphs.recordings == 1, "it is not tried again"
    assert not graphs.held
    assert caplog.text.count("decodes without one") == 1


def test_a_stream_for_which_there_is_no_room_at_all_is_no_matter_of_graphs(
    runner: DecodeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for name in ("decode_stream", "prime_stream"):
        monkeypatch.setattr(FastDecoder, name, full)
    with pytest.raises(torch.OutOfMemoryError):
        runner.begin(still(0, 7))


def test_a_decoder_that_copies_reads_the_portrait_of_its_own_stream() -> None:
    torch.manual_seed(0)
    vae = CompactVAE(replace(TINY.vae, reference_width=8)).eval()
    for parameter in vae.decoder.parameters():  # a fresh branch changes nothing
        parameter.data += 0.05 * torch.randn_like(parameter)
    runner = DecodeRunner(OwnDecoder(vae), (4, 6), torch.float32, CPU)
    addresses: set[int] = set()
    for seed in (0, 1, 0):
        generator = torch.Generator().manual_seed(seed)
        picture = np.asarray(torch.randint(0, 256, (64, 96, 3), generator=generator, dtype=torch.uint8))
        motion, *parts = torch.randn(1, 8, 12, 4, 6, generator=generator).split(3, dim=2)
        decoder = plain_decoder(vae, motion, picture, Threads(1, shared=False))
        wanted = [decoder.run(x, index).frames for index, x in enumerate(parts)]
        runner.set_reference(image_tensor(picture), motion[:, :, :1])
        runner.begin(motion)
        for x, frames in zip(parts, wanted, strict=True):
            assert np.array_equal(runner.decode(x), frames)
        addresses |= {value.data_ptr() for value in runner.state.constants.values()}
    assert len(addresses) == len(runner.state.constants) > 0, "a graph records where they lie"
