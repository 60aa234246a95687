"""Rings in host memory on a GPU: the bits of rings on the GPU, however copies and kernels are delayed; memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from liveavatar.bench.gpu.build import ATTENTION8, BF16, DRY, E4M3, FP8_ALL, Mode, bench_job, fast_engine, release
from liveavatar.fast import runner
from liveavatar.fast.copies import Copies, HostMemory, Mark, pin, unpin
from liveavatar.fast.flash3 import flash3
from liveavatar.fast.host_rings import HostRing, Stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Heads of 128 as attention kernels like them, and layers enough that a buffer is used again and again.
CONFIG = replace(DRY, dit=replace(DRY.dit, dim=256, num_heads=2, num_layers=6, ffn_dim=512, audio_inject_layers=(0, 4)))
SIZE, BLOCKS = (256, 192), 9  # the ring is full after four blocks
BUSY = 4096  # rows of a product that keeps a GPU busy for longer than a layer computes
NEEDS_FLASH3 = pytest.mark.skipif(
    not torch.cuda.is_available() or flash3(torch.device("cuda")) is None, reason="needs a Hopper GPU and fa3-fwd"
)
MODES = [BF16, FP8_ALL, ATTENTION8, pytest.param(E4M3, marks=NEEDS_FLASH3)]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    release()


class Delay:
    """Work that keeps a stream busy."""

    def __init__(self) -> None:
        self.x = torch.ones(BUSY, BUSY, dtype=torch.bfloat16, device="cuda")
        self.y = torch.empty_like(self.x)

    def __call__(self) -> None:
        torch.mm(self.x, self.x, out=self.y)


class SlowCopies(Copies):
    """Copies that begin late on their own stream."""

    def __init__(self, device: torch.device, use: str) -> None:
        super().__init__(device, use)
        self.delay = Delay()
        torch.cuda.synchronize()

    def begin(self, copy: Callable[[], None], after: Iterable[Mark]) -> Mark:
        def late() -> None:
            self.delay()
            copy()

        return super().begin(late, after)


def latents(mode: Mode, on_host: bool, offload: bool = True) -> torch.Tensor:
    asked = replace(mode, offload=offload, rings_on_host=on_host)
    engine = fast_engine(CONFIG, asked, torch.device("cuda"), torch.bfloat16)
    return torch.stack([b.latents for b in engine.open(bench_job(CONFIG, SIZE, BLOCKS)).blocks(decode=False)])


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("offload", [True, False], ids=["weights on the host", "weights on the GPU"])
def test_bits_are_those_of_rings_on_the_gpu(mode: Mode, offload: bool) -> None:
    assert torch.equal(latents(mode, True, offload), latents(mode, False, offload))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_late_copies_are_waited_for(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = latents(mode, False)
    monkeypatch.setattr(runner, "Stage", partial(Stage, copies=SlowCopies))
    assert torch.equal(latents(mode, True), wanted)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_late_kernels_are_waited_for(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = latents(mode, False)
    bring, send_back, delay = Stage.bring, Stage.send_back, Delay()

    def slowly(work: Callable[..., None]) -> Callable[..., None]:
        def late(*arguments: Any) -> None:
            delay()
            work(*arguments)

        return late

    monkeypatch.setattr(Stage, "bring", slowly(bring))
    monkeypatch.setattr(Stage, "send_back", slowly(send_back))
    assert torch.equal(latents(mode, True), wanted)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("resumed_on_host", [True, False], ids=["on the host", "on the GPU"])
def test_a_snapshot_goes_on_wherever_its_rings_are(mode: Mode, resumed_on_host: bool) -> None:
    engine = fast_engine(CONFIG, replace(mode, offload=True), torch.device("cuda"), torch.bfloat16)
    engine.mode = replace(engine.mode, rings_on_host=not resumed_on_host)
    made: list[torch.Tensor] = []
    state: dict[str, torch.Tensor] = {}
    for block in engine.open(bench_job(CONFIG, SIZE, BLOCKS)).blocks(snapshot_every=5):
        made.append(block.latents)
        if block.state is not None and not state:
            state = {name: t.clone() for name, t in block.state.items()}
    engine.mode = replace(engine.mode, rings_on_host=resumed_on_host)
    stream = engine.open(bench_job(CONFIG, SIZE, BLOCKS))
    stream.restore(state)
    for got, wanted in zip(stream.blocks(), made[5:], strict=True):
        assert torch.equal(got.latents, wanted)


def test_a_stream_that_is_given_up_leaves_the_next_one_whole() -> None:
    engine = fast_engine(
        CONFIG, replace(FP8_ALL, offload=True, rings_on_host=True), torch.device("cuda"), torch.bfloat16
    )
    job = bench_job(CONFIG, SIZE, BLOCKS)
    wanted = [block.latents for block in engine.open(job).blocks(decode=False)]
    given_up = engine.open(job)
    for block in given_up.blocks(decode=False):
        if block.index == 4:
            break
    given_up.close()
    for got, latent in zip(engine.open(job).blocks(decode=False), wanted, strict=True):
        assert torch.equal(got.latents, latent)


@pytest.mark.parametrize("mode", [BF16, FP8_ALL, ATTENTION8], ids=lambda mode: mode.name)
def test_rings_take_no_memory_of_the_gpu_but_those_of_a_layer(mode: Mode) -> None:
    peaks, rings, staged = [], 0, 0
    for on_host in (False, True):
        asked = replace(mode, offload=True, rings_on_host=on_host)
        engine = fast_engine(CONFIG, asked, torch.device("cuda"), torch.bfloat16)
        release()
        for _ in engine.open(bench_job(CONFIG, (512, 384), 6)).blocks(decode=False):
            pass
        peaks.append(torch.cuda.max_memory_allocated())
        kept = engine.backend.runners.current
        assert kept is not None
        if on_host:
            assert all(isinstance(ring, HostRing) and ring.host.pinned for ring in kept.rings)
            assert kept.stage is not None
            staged = 4 * kept.stage.window * kept.stage.layout.num_bytes  # one, two that arrive, blocks that leave
        else:
            rings = sum(t.numel() * t.element_size() for ring in kept.rings for t in ring.tensors().values())
        del engine, kept
        release()
    freed = peaks[0] - peaks[1]
    assert rings > 10 * staged / 4
    assert freed > rings - 2 * staged, f"{freed / 2**20:.0f} MiB of {rings / 2**20:.0f} MiB of rings"


def test_host_memory_is_pinned_and_given_back() -> None:
    device = torch.device("cuda")
    for _ in range(3):  # the same addresses most likely, which could not be pinned twice
        memory = HostMemory(2**26 + 12_345, device)
        assert memory.pinned
        assert memory.bytes.is_pinned()
        source = torch.randint(0, 255, (2**26,), dtype=torch.uint8, device=device)
        memory.bytes[: 2**26].copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        assert torch.equal(memory.bytes[: 2**26], source.cpu())
        del memory


def test_pinning_that_fails_leaves_no_error_behind() -> None:
    device, host = torch.device("cuda"), torch.zeros(2**24, dtype=torch.uint8)
    assert pin(host, device)
    assert not pin(host, device), "it is pinned already"
    assert int((torch.ones(8, device=device) + 1).sum()) == 16
    unpin(host, device)


def test_what_cannot_be_pinned_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = latents(FP8_ALL, True)
    monkeypatch.setattr("liveavatar.fast.copies.available_gb", lambda: 0.0)
    assert torch.equal(latents(FP8_ALL, True), wanted)
