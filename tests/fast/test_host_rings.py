"""Rings in host memory: the bits of rings on the device, whenever copies are made; what comes, what goes back."""

import copy
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from liveavatar.engine.denoiser import load_rings, ring_tensors
from liveavatar.engine.placement import split
from liveavatar.fast import accelerate
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.backend import FastBackend
from liveavatar.fast.copies import Copies
from liveavatar.fast.host_rings import HostRing, Stage, TokenLayout
from liveavatar.fast.rings import Bf16Ring, DeviceRing, E4m3Ring, Fp8Ring, Ring, Ring8, Workspace, ring_part
from liveavatar.model.kv_ring import Sink
from tests.fast.engines import CPU, model
from tests.fast.streams import BLOCKS, conditioning, features, spec
from tests.fast.test_rings import LAYERS, SINKS, WINDOW, L, block, make_sink, turn, where

STEPS = 2
DTYPES = ["bf16", "fp8", "int8", "e4m3"]


class LateMark:
    """A point in the work of a `LateCopies`."""

    def __init__(self, reach: Callable[[], None]) -> None:
        self.reach = reach


@dataclass
class LateCopies(Copies):
    """Copies that are made when something waits for them, and not before: a wait that is missing shows."""

    device: torch.device
    use: str

    def __post_init__(self) -> None:
        self.stream = None
        self.queued: list[Callable[[], None]] = []
        self.moved = 0

    def begin(self, copy: Callable[[], None], after: Iterable[Any]) -> Any:
        marks = list(after)

        def work() -> None:
            for mark in marks:
                self.wait(mark)
            copy()

        self.queued.append(work)
        last = len(self.queued)
        return LateMark(lambda: self._run(last))

    def _run(self, until: int) -> None:
        while self.moved < until:
            work = self.queued[self.moved]
            self.moved += 1
            work()

    def mark(self) -> Any:
        return None  # the current stream is the CPU, which has done its work

    def wait(self, mark: Any) -> None:
        if mark is not None:
            mark.reach()

    def settle(self) -> None:
        self._run(len(self.queued))


def device_ring(kv_cache_dtype: str, sink: Sink) -> DeviceRing:
    if kv_cache_dtype == "fp8":
        return Fp8Ring(sink, WINDOW, Workspace(sink, WINDOW), FastAttention())
    if kv_cache_dtype == "int8":
        return Ring8(sink, WINDOW)
    if kv_cache_dtype == "e4m3":
        return E4m3Ring(sink, WINDOW, None)
    return Bf16Ring(sink, WINDOW, FastAttention())


def host_rings(
    kv_cache_dtype: str, sink: Sink, copies: type[Copies] = Copies, steps: int = STEPS
) -> tuple[Stage, list[HostRing]]:
    stage = Stage(device_ring(kv_cache_dtype, Sink(sink.k[:1], sink.v[:1], 1)), L, CPU, copies)
    rings = [HostRing(sink, stage) for _ in range(steps)]
    for ring, following in pairwise(rings):
        ring.next = following
    return stage, rings


def attend_all(rings: list[Any], index: int, sink: Sink, stage: Stage | None = None) -> list[Tensor]:
    """What every layer of every step makes of a block; each step has other queries, keys and values."""
    made = []
    if stage is not None:
        slot, visible = where(index)
        stage.prepare(int(slot), visible)
    for step, ring in enumerate(rings):
        ring.place(sink, turn(300 + index, SINKS), SINKS if index == 0 else 1)
        made += [ring.attend(layer, where(index), block(index + 50 * step + 20 * layer)) for layer in range(LAYERS)]
    return made


def same(got: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("copies", [Copies, LateCopies], ids=["at once", "as late as may be"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kv_cache_dtype", DTYPES)
def test_bits_are_those_of_rings_on_the_device(kv_cache_dtype: str, steps: int, copies: type[Copies]) -> None:
    first, second = make_sink(1), make_sink(2)
    here: list[Ring] = [device_ring(kv_cache_dtype, first) for _ in range(steps)]
    stage, there = host_rings(kv_cache_dtype, first, copies, steps)
    for index in range(7):  # the ring is full after two blocks
        sink = first if index < 4 else second
        if index == 4:
            for ring in (*here, *there):
                ring.set_sink(second)
                ring.place(second, turn(299, SINKS), SINKS)
        same(attend_all(there, index, sink, stage), attend_all(here, index, sink))


@pytest.mark.parametrize("kv_cache_dtype", DTYPES)
def test_the_next_stream_finds_nothing_of_the_last_one(kv_cache_dtype: str) -> None:
    stage, used = host_rings(kv_cache_dtype, make_sink(1), LateCopies)
    for index in range(3):
        attend_all(used, index + 9, make_sink(1), stage)
    sink = make_sink(2)
    fresh: list[Ring] = [device_ring(kv_cache_dtype, sink) for _ in range(STEPS)]
    for ring in used:
        ring.begin(sink)
    for index in range(4):
        same(attend_all(used, index, sink, stage), attend_all(fresh, index, sink))


@pytest.mark.parametrize("kv_cache_dtype", DTYPES)
@pytest.mark.parametrize("saved_on_host", [True, False], ids=["saved on the host", "saved on the device"])
@pytest.mark.parametrize("on_host", [True, False], ids=["resumed on the host", "resumed on the device"])
def test_a_snapshot_of_either_kind_goes_on_in_either_kind(
    kv_cache_dtype: str, saved_on_host: bool, on_host: bool
) -> None:
    sink = make_sink()

    def make(host: bool) -> tuple[Stage | None, list[Any]]:
        if host:
            return host_rings(kv_cache_dtype, sink, LateCopies)
        return None, [device_ring(kv_cache_dtype, sink) for _ in range(STEPS)]

    (stage, whole), (other, resumed) = make(saved_on_host), make(on_host)
    for index in range(3):
        attend_all(whole, index, sink, stage)
    for ring, source in zip(resumed, whole, strict=True):
        ring.place(sink, turn(300, SINKS), SINKS)
        ring.load({name: t.clone() for name, t in source.tensors().items()})
    for index in (3, 4, 5):
        same(attend_all(resumed, index, sink, other), attend_all(whole, index, sink, stage))


def test_a_block_that_was_given_up_leaves_nothing_behind() -> None:
    sink = make_sink()
    stage, rings = host_rings("fp8", sink, LateCopies)
    here: list[Ring] = [device_ring("fp8", sink) for _ in range(STEPS)]
    for index in range(2):
        same(attend_all(rings, index, sink, stage), attend_all(here, index, sink))
    saved = [{name: t.clone() for name, t in ring.tensors().items()} for ring in rings]
    slot, visible = where(2)
    stage.prepare(int(slot), visible)
    rings[0].attend(0, where(2), block(90))  # the next layer is on its way
    for ring, tensors in zip(rings, saved, strict=True):
        ring.load(tensors)
    for index in (2, 3):
        same(attend_all(rings, index, sink, stage), attend_all(here, index, sink))


def test_memory_goes_with_its_last_user_in_the_middle_of_a_block() -> None:
    sink = make_sink()
    stage, rings = host_rings("fp8", sink)
    stage.prepare(0, L)
    rings[0].attend(0, where(0), block(0))  # the next layer is under way
    memories = [weakref.ref(ring.host) for ring in rings]
    del stage, rings
    assert [memory() for memory in memories] == [None, None]


def test_only_the_written_slots_go_back() -> None:
    sink = make_sink()
    stage, rings = host_rings("bf16", sink)
    for index in range(3):
        attend_all(rings, index, sink, stage)
    before = [ring.memory.clone() for ring in rings]
    attend_all(rings, 3, sink, stage)
    first = int(where(3)[0])
    written = torch.zeros(WINDOW, dtype=torch.bool)
    written[first : first + L] = True
    for ring, old in zip(rings, before, strict=True):
        changed = (ring.memory != old).any(-1)
        assert not changed[:, ~written].any()
        assert changed[:, written].all()


def test_slots_that_are_about_to_be_overwritten_do_not_come() -> None:
    """What lies in them on the host is not read: rubbish there changes nothing."""
    sink = make_sink()
    (stage, rings), (other, spoilt) = host_rings("fp8", sink), host_rings("fp8", sink)
    for index in range(5):
        slot, visible = int(where(index)[0]), where(index)[1]
        for ring in spoilt:
            ring.memory[:, slot : slot + L] = 0x7F  # NaN
            ring.memory[:, visible:] = 0x7F
        same(attend_all(spoilt, index, sink, other), attend_all(rings, index, sink, stage))


def test_parts_of_a_token_lie_one_after_the_other() -> None:
    parts = [torch.rand(5, 2, 3).bfloat16(), torch.rand(5, 4), torch.rand(5, 2).to(torch.float8_e4m3fn)]
    layout = TokenLayout.of(parts)
    assert layout.num_bytes == 32  # 12 + 16 + 2, in words of 16
    rows = torch.zeros(5, layout.num_bytes, dtype=torch.uint8)
    for view, part in zip(layout.cut(rows), parts, strict=True):
        assert view.shape == part.shape
        view.copy_(part)
    for view, part in zip(layout.cut(rows), parts, strict=True):
        assert torch.equal(view.float(), part.float())


def test_the_ring_is_cut_out_behind_the_sinks() -> None:
    t = torch.arange(24).view(2, 12)
    assert torch.equal(ring_part(t, torch.Size((2, 8)), 3), t[:, 3:11])
    assert torch.equal(ring_part(t, t.shape, 3), t)


# A whole stream -----------------------------------------------------------------------------------

WHOLE = split(3, 1)[0]


def backend(offload: bool) -> FastBackend:
    loaded = model()
    return FastBackend(replace(loaded, dit=accelerate(copy.deepcopy(loaded.dit), device=CPU, offload=offload)), CPU)


@torch.inference_mode()
def run(here: FastBackend, kv_cache_dtype: str, on_host: bool, resumed: dict[str, Tensor] | None = None) -> Any:
    """Latents of each block, and the rings after the fifth; the reference changes in mid-stream."""
    asked = replace(spec(kv_cache_dtype=kv_cache_dtype), rings_on_host=on_host)
    denoiser = here.denoiser(asked, conditioning(), WHOLE)
    first, made, saved = 0, [], {}
    if resumed is not None:
        first = 5
        load_rings(denoiser.rings, resumed)
    another = conditioning(30)
    if first:
        denoiser.reanchor(another.reference, another.motion)
    for index in range(first, BLOCKS):
        if index == 3:
            denoiser.reanchor(another.reference, another.motion)
        x, _ = denoiser.queue(index, denoiser.noise(index), here.dit.encode_audio(features(index)))
        made.append(x.clone())
        if index == 4:
            saved = {name: t.clone() for name, t in ring_tensors(denoiser.rings).items()}
    return made, saved


@pytest.mark.parametrize("kv_cache_dtype", DTYPES)
def test_latents_of_a_stream_are_those_of_rings_on_the_device(kv_cache_dtype: str) -> None:
    resident, offloaded = backend(False), backend(True)
    wanted, saved_here = run(resident, kv_cache_dtype, False)
    got, saved_there = run(offloaded, kv_cache_dtype, True)
    same(got, wanted)
    same(run(offloaded, kv_cache_dtype, True)[0], wanted)  # the next job, in the same buffers
    for state in (saved_here, saved_there):
        for here, on_host in ((offloaded, True), (resident, False)):
            same(run(here, kv_cache_dtype, on_host, state)[0], wanted[5:])


def test_rings_move_to_the_host_between_two_jobs_when_the_next_one_asks() -> None:
    here = backend(True)
    for on_host in (False, True, False):
        here.denoiser(replace(spec(), rings_on_host=on_host), conditioning(), WHOLE)
        assert here.runners.current is not None
        assert isinstance(here.runners.current.rings[0], HostRing) == on_host
