"""Placement of jobs on a group of ranks: the last rank opens jobs on the whole group, the others serve.

Owns the opening and the end of a job across ranks; the job itself is `liveavatar.distributed.tpp`. Does not know how
networks are loaded.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch

from liveavatar.config import ModelConfig
from liveavatar.distributed.balance import Balance, Shape
from liveavatar.distributed.circular import CircularTpp, CircularWorker
from liveavatar.distributed.group import Group, GroupError
from liveavatar.distributed.tpp import Opening, Tpp, Worker
from liveavatar.engine.backend import Backend
from liveavatar.engine.denoiser import Conditioning, DenoiseSpec
from liveavatar.engine.placement import FeaturesOf, Placement, RankWork, circulate, split, split_layers
from liveavatar.engine.single import SinglePlacement

DecodeLayers = Callable[[int, int, str], float]  # width, height, kv_cache_dtype -> layers that take as long as decoding


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSpec:
    """A rank's place in a group, and the precision of its linear layers."""

    rank: int
    world: int
    own_decoder: bool  # whether the last rank decodes and nothing else
    fp8: bool = False  # linear layers in 8 bits; GPUs only
    layers: tuple[int, ...] = ()  # of each rank, where blocks go round; none: every rank has all

    @property
    def parts(self) -> tuple[str, ...]:
        """Networks that the rank needs."""
        if self.rank < self.world - 1:
            return ("dit",)
        return ("vae", "text") if self.own_decoder else ("dit", "vae", "text")

    @property
    def kept(self) -> range | None:
        """Layers that the rank loads; None: all."""
        start = sum(self.layers[: self.rank])
        return range(start, start + self.layers[self.rank]) if self.layers else None


class GroupPlacement:
    """A `PlacementFactory` that places jobs on a group.

    With `decode_layers`, layers are spread instead of whole steps, counting the decoder on the last rank as that many
    layers. Only a transformer in its fast form can do that. Where they come from `decode_layers_of`, they are a first
    guess: a later job of the same shapes is divided by the times of an earlier one (`liveavatar.distributed.balance`).
    With `layers`, which are what each rank has loaded, blocks go round (`liveavatar.distributed.circular`).
    """

    def __init__(
        self,
        group: Group,
        num_layers: int,
        own_decoder: bool,
        decode_layers_of: DecodeLayers | None = None,
        layers: tuple[int, ...] = (),
    ) -> None:
        """Place jobs on a group.

        Args:
            group: this process among its ranks.
            num_layers: of the transformer.
            own_decoder: whether the last rank decodes and nothing else.
            decode_layers_of: sets `decode_layers` for each job's size; None leaves it as it is.
            layers: of each rank, where blocks go round; none: every rank has all.
        """
        self.layers = layers
        self.group, self.num_layers, self.own_decoder = group, num_layers, own_decoder
        self.decode_layers_of = decode_layers_of
        self.decode_layers: float | None = None
        self.current: Tpp | None = None
        self._opened = False
        self._balances: dict[Shape, Balance] = {}
        self._balance: Balance | None = None  # of the newest job; None if its layers are not spread by times

    def place(self, backend: Backend, spec: DenoiseSpec, conditioning: Conditioning, features: FeaturesOf) -> Placement:
        """Open a job on the whole group."""
        if self.decode_layers_of is not None:
            stride = backend.config.vae.spatial_stride
            self.decode_layers = self.decode_layers_of(spec.w * stride, spec.h * stride, spec.settings.kv_cache_dtype)
        if self.group.world == 1:
            return SinglePlacement().place(backend, spec, conditioning, features)
        sent = replace(conditioning.to(torch.device("cpu")), skeleton=None)  # its latents travel block by block
        works = self._guess(spec.num_steps)
        self._balance = self._balance_of(backend.config, spec)
        if self._balance is not None:
            works = self._balance.begin(works)
        opening = Opening(spec, sent, works, torch.get_num_threads())
        self._opened, self.current = True, None  # buffers of another size are freed before these are made
        self.group.broadcast(opening)
        tpp = CircularTpp if self.layers else Tpp
        self.current = tpp(self.group, backend, opening, features, conditioning.skeleton, self._balance)
        return self.current

    @property
    def by_times(self) -> bool:
        """True when the newest job was divided by measured times."""
        return self._balance is not None and self._balance.by_times

    def works(self, num_steps: int) -> tuple[RankWork, ...]:
        """Return each rank's share of a job with `num_steps` denoise steps: of the newest one, or of one to come."""
        if self._balance is not None and self._balance.shape.num_steps == num_steps:
            return self._balance.divided
        return self._guess(num_steps)

    def _guess(self, num_steps: int) -> tuple[RankWork, ...]:
        """Divide a job without measured times."""
        world = self.group.world
        if self.layers and world > 1:
            return circulate(num_steps, self.layers)
        if self.decode_layers is None or world == 1:
            return split(num_steps, world, self.own_decoder)
        decode_layers = math.inf if self.own_decoder else self.decode_layers
        return split_layers(num_steps, self.num_layers, world, decode_layers)

    def _balance_of(self, config: ModelConfig, spec: DenoiseSpec) -> Balance | None:
        """Return where the times of a job go, None if its layers are not spread by them."""
        if self.decode_layers_of is None or self.own_decoder or self.layers:
            return None
        shape = Shape.of(spec)
        return self._balances.setdefault(shape, Balance(config.dit, shape))

    @contextmanager
    def job(self) -> Iterator[None]:
        """Release the other ranks for the next job on any exit, unless the group is broken."""
        self._opened, self.current = False, None
        try:
            yield
        except GroupError:
            self._opened, self.current = True, None
            raise
        finally:
            if self.current is not None:
                self.current.close()
            elif not self._opened and self.group.world > 1:
                with suppress(GroupError):
                    self.group.broadcast(None)

    def forget(self) -> None:
        """Drop the last job and the buffers it refers to."""
        self.current = None

    def serve(self, backend: Backend) -> bool:
        """Take part in the next job of the last rank; return False when that job failed before it began.

        Raises:
            GroupError: another rank was lost.
        """
        threads = torch.get_num_threads()
        opening: Opening | None = self.group.broadcast(None)
        if opening is None:
            return False
        try:
            torch.set_num_threads(opening.threads)
            worker = CircularWorker if opening.works[0].circular else Worker
            worker(self.group, backend, opening).serve()
        finally:
            torch.set_num_threads(threads)
        return True
