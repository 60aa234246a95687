"""Division of the denoise steps among processes, and the interface of the object that runs them.

The block loop hands every block to a *placement*: `liveavatar.engine.single.Single` takes it through all steps in this
process, `liveavatar.distributed.tpp.Tpp` through the ranks of a group, each with some of the steps. Loop, snapshots and
bits of the latents are the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from math import gcd
from typing import Protocol

from torch import Tensor

from liveavatar.engine.job import Block
from liveavatar.engine.memory import MemoryReading
from liveavatar.errors import InputError

# Buffers a rank keeps for each kind of message: one is processed, one is under way, one was processed last.
SLOTS = 3

Ready = Callable[[int], bool | None]  # block -> its sound is there (True), will never be (False), or may come (None)
FeaturesOf = Callable[[int], Tensor]  # index of a block -> its speech features [1, L, C, history + 12], on the CPU


@dataclass(frozen=True, slots=True)
class Span:
    """A run of layers of one denoise step."""

    step: int
    layers: range

    def whole(self, num_layers: int) -> bool:
        """Return whether the run is the whole step."""
        return self.layers == range(num_layers)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankWork:
    """A rank's share of a job: denoise steps, or layers of them, and the decoder.

    In a *circular* division a rank has the same layers of every step, and a block goes round the ranks once a step.
    """

    rank: int
    steps: tuple[int, ...]
    decodes: bool
    first_layer: int = 0  # of the first step; earlier layers run on the ranks before
    stop_layer: int | None = None  # of the last step: the next rank goes on here; None: no layer is left
    circular: bool = False  # `first_layer` and `stop_layer` are those of every step

    @property
    def role(self) -> str:
        """Description for people, steps counted from 1, layers from 0."""
        if self.circular:
            stop = "" if self.stop_layer is None else f" up to layer {self.stop_layer}"
            return f"each step from layer {self.first_layer}{stop}{' + decoder' * self.decodes}"
        words = []
        if self.steps:
            first, last = self.steps[0] + 1, self.steps[-1] + 1
            words.append(f"step {first}" if first == last else f"steps {first}-{last}")
        if self.first_layer:
            words[0] += f" from layer {self.first_layer}"
        if self.stop_layer is not None:
            words[0] += f" up to layer {self.stop_layer}"
        return " + ".join([*words, "decoder"] if self.decodes else words)

    def spans(self, num_layers: int) -> tuple[Span, ...]:
        """Split the share into runs of layers, one per step, of a transformer with `num_layers`."""
        if self.circular:
            return tuple(Span(s, range(self.first_layer, self.stop_layer or num_layers)) for s in self.steps)
        ends = {self.steps[-1]: self.stop_layer or num_layers} if self.steps else {}
        starts = {self.steps[0]: self.first_layer} if self.steps else {}
        return tuple(Span(s, range(starts.get(s, 0), ends.get(s, num_layers))) for s in self.steps)

    def num_layers_of(self, num_layers: int) -> int:
        """Count the layers of the share, over all its steps."""
        return sum(len(span.layers) for span in self.spans(num_layers))


def split(num_steps: int, num_ranks: int, own_decoder: bool | None = None) -> tuple[RankWork, ...]:
    """Spread steps over ranks: contiguous, as even as possible, the decoder last.

    Args:
        num_steps: denoise steps of a block.
        num_ranks: of the group, that of the decoder included.
        own_decoder: whether the last rank decodes and does nothing else; None when that is the only use for it.

    Raises:
        InputError: a rank would have nothing to do.
    """
    own = num_ranks > num_steps if own_decoder is None else own_decoder
    movers = num_ranks - own
    if not 1 <= movers <= num_steps:
        most = num_steps + 1
        raise InputError(
            f"--num_gpus {num_ranks}: {num_steps} steps and a decoder keep 1 to {most} busy; "
            f"use at most {most}, or more --sample_steps"
        )
    # The rank with the decoder never has more steps than the others.
    share, extra = divmod(num_steps, movers)
    ranks, first = [], 0
    for rank in range(movers):
        count = share + (rank < extra)
        ranks.append(
            RankWork(rank=rank, steps=tuple(range(first, first + count)), decodes=not own and rank == movers - 1)
        )
        first += count
    return (*ranks, RankWork(rank=movers, steps=(), decodes=True)) if own else tuple(ranks)


@dataclass(frozen=True, slots=True)
class RankTimes:
    """Times of the ranks of a group, in any unit: one layer on each of them, and the decoder on the last."""

    layer: tuple[float, ...]  # by rank
    rest: float  # decoding a block

    def busy(self, layers: Sequence[int]) -> list[float]:
        """Return how long each rank is busy with a block when it has so many layers."""
        busy = [count * time for count, time in zip(layers, self.layer, strict=True)]
        busy[-1] += self.rest
        return busy

    def bound(self, work: int) -> float:
        """Return a lower bound of a block's time for `work` layers: no rank ever waits, and a block is decoded on one.

        With layers that could be cut anywhere, time T has room for T / t layers on a rank that takes t for one, and for
        (T - rest) / t on the last.
        """
        rates = [1 / time for time in self.layer]
        return max((work + self.rest * rates[-1]) / sum(rates), self.rest)


def split_layers(num_steps: int, num_layers: int, num_ranks: int, decode_layers: float) -> tuple[RankWork, ...]:
    """Spread the layers of all steps over ranks of one speed; see `spread_layers`.

    Args:
        num_steps: denoise steps of a block.
        num_layers: of the transformer.
        num_ranks: of the group.
        decode_layers: how many layers take as long as a block's decoding; infinite: the last rank does nothing else.

    Raises:
        InputError: a rank would have nothing to do.
    """
    return spread_layers(num_steps, num_layers, RankTimes((1.0,) * num_ranks, decode_layers))


def spread_layers(
    num_steps: int, num_layers: int, times: RankTimes, most: Sequence[int] | None = None
) -> tuple[RankWork, ...]:
    """Spread the layers of all steps over ranks so that the slowest is as fast as can be, the decoder on the last.

    A decoder that takes longer than any other rank has a rank of its own.

    Args:
        num_steps: denoise steps of a block.
        num_layers: of the transformer.
        times: of the ranks.
        most: layers that each rank has room for; None: all.

    Raises:
        InputError: a rank would have nothing to do, or there is no room for all layers.
    """
    work, num_ranks = num_steps * num_layers, len(times.layer)
    if num_ranks == 1:
        return split(num_steps, 1)
    room = [work] * num_ranks if most is None else list(most)
    layers = _fill([0] * num_ranks, work, room, times)
    if not all(layers[:-1]):
        raise InputError(f"--num_gpus {num_ranks}: {work} layers are too few to share; use fewer GPUs")
    cuts = [0, *accumulate(layers)]
    ranks = []
    for rank, (start, stop) in enumerate(pairwise(cuts)):
        steps = tuple(range(start // num_layers, -(-stop // num_layers))) if stop > start else ()
        ranks.append(
            RankWork(
                rank=rank,
                steps=steps,
                decodes=rank == num_ranks - 1,
                first_layer=start % num_layers,
                stop_layer=stop % num_layers or None,
            )
        )
    return tuple(ranks)


def share_layers(
    num_steps: int, num_layers: int, times: RankTimes, most: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Share the layers of a circular division so that the slowest rank is as fast as can be; see `RankWork`.

    Args:
        num_steps: denoise steps of a block.
        num_layers: of the transformer.
        times: of the ranks.
        most: layers that each rank has room for; None: all.

    Returns:
        Layers of each rank, one or more.

    Raises:
        InputError: a rank would have nothing to do, or there is no room for all layers.
    """
    num_ranks = len(times.layer)
    if num_layers < num_ranks:
        raise InputError(f"--num_gpus {num_ranks}: {num_layers} layers are too few to share; use fewer GPUs")
    room = [num_layers] * num_ranks if most is None else list(most)
    return tuple(_fill([1] * num_ranks, num_layers, room, times, num_steps))


def _fill(layers: list[int], total: int, room: list[int], times: RankTimes, passes: int = 1) -> list[int]:
    """Add layers one by one to the rank that is done with its own first, which is optimal for equal pieces.

    Args:
        layers: of each rank, to begin with.
        total: layers of all ranks in the end.
        room: layers that each rank can take.
        times: of the ranks.
        passes: of a block through each layer.

    Raises:
        InputError: there is no room for all layers.
    """
    while sum(layers) < total:
        open_to = [rank for rank, count in enumerate(layers) if count < room[rank]]
        if not open_to:
            break
        after = times.busy([(count + 1) * passes for count in layers])
        layers[min(open_to, key=lambda rank: after[rank])] += 1
    if sum(layers) < total or any(count > most for count, most in zip(layers, room, strict=True)):
        raise InputError(f"{total} layers do not fit {len(layers)} ranks with room for {room}; use more GPUs")
    return layers


def circulate(num_steps: int, layers: Sequence[int]) -> tuple[RankWork, ...]:
    """Give each rank its layers of every step, the decoder to the last.

    Args:
        num_steps: denoise steps of a block.
        layers: of each rank, all of the transformer together.
    """
    cuts = [0, *accumulate(layers)]
    last = len(layers) - 1
    return tuple(
        RankWork(
            rank=rank,
            steps=tuple(range(num_steps)),
            decodes=rank == last,
            first_layer=start,
            stop_layer=None if rank == last else stop,
            circular=True,
        )
        for rank, (start, stop) in enumerate(pairwise(cuts))
    )


def lap_tasks(num_steps: int, num_ranks: int) -> int:
    """Return how many tasks, each some layers of one step of one block, a rank does while a block goes round once.

    A block enters every `num_steps` tasks, so the blocks on their way never want a rank at the same time when the two
    numbers have no divisor in common. One task more than there are ranks leaves time for the way.
    """
    return next(n for n in count(num_ranks + 1) if gcd(n, num_steps) == 1)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds and memory of one block. Waiting, working and sending are per rank, and empty in one process."""

    step_s: tuple[float, ...]  # each step, wherever it ran
    wait_s: tuple[float, ...] = ()  # idle before the block
    busy_s: tuple[float, ...] = ()  # working on it
    sent_s: tuple[float, ...] = ()  # sending the block before
    memory: tuple[MemoryReading, ...] = ()  # of each rank once its share was done; in one process of that one


@dataclass(frozen=True, slots=True)
class Queued:
    """A block that is being denoised; on a GPU its kernels need not have run."""

    x: Tensor  # after all steps [1, C, 3, h, w], dtype of the transformer; valid until the next block is queued
    times: Callable[[], Times]  # waits for the block; to be called once


class Placement(Protocol):
    """Takes the blocks of one job through all denoise steps, in order."""

    first_latent: Tensor | None  # [1, C, 1, h, w], once there is one
    has_state: bool  # whether `tensors` may be called now

    def queue(self, index: int) -> Queued:
        """Begin with the next block."""

    def hear(self, ready: Ready) -> Ready:
        """Learn that sound still arrives; return what is to be asked whether that of a block is there."""

    def note(self, block: Block) -> None:
        """Take the times of a finished block."""

    def snapshots_every(self, blocks: int) -> None:
        """Set the number of blocks between two after which `tensors` may be called; 0 for none."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the rings of all steps after the last block; live until the next one."""

    def load(self, position: int, tensors: dict[str, Tensor], first_latent: Tensor | None) -> None:
        """Continue at block `position` of a snapshot."""

    def close(self) -> None:
        """End the job; other ranks are free for the next one."""
