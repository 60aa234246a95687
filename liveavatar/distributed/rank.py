"""A process of a group: its place, the networks it needs for it, and one job after another."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import LoadedModel, load_model
from liveavatar.distributed.group import LIMIT_SECONDS, Group, GroupError
from liveavatar.distributed.tpp import Opening, Tpp, Worker, moved
from liveavatar.engine.denoiser import Conditioning, DenoiseSpec
from liveavatar.engine.engine import Engine, pick_device, pick_dtype
from liveavatar.engine.placement import FeaturesOf, Placement, RankWork, split, split_layers
from liveavatar.fast.load import load_fast_model
from liveavatar.fast.stream import FastEngine
from liveavatar.hardware import GB, gpu_of
from liveavatar.planning.speed import decode_layers

log = logging.getLogger(__name__)


class GroupEngine(Engine):
    """The engine of a rank: the last one opens jobs on the whole group, the others serve.

    Where `decode_layers` is set, layers are spread instead of whole steps: as many of them as it says take as long as
    decoding a block, which the last rank does beside its own. Only a transformer in its fast form can do that.
    """

    decode_layers: float | None = None

    def __init__(self, model: LoadedModel, group: Group, own_decoder: bool) -> None:
        super().__init__(model, group.device)
        self.group, self.own_decoder = group, own_decoder
        self._opened = False
        self._tpp: Tpp | None = None

    def place(self, spec: DenoiseSpec, given: Conditioning, features: FeaturesOf) -> Placement:
        """Who denoises a job: the group."""
        if self.group.world == 1:
            return super().place(spec, given, features)
        opening = Opening(spec, moved(given, torch.device("cpu")), self.stages(spec.num_steps), torch.get_num_threads())
        self._opened, self._tpp = True, None  # buffers of another size are freed before these are made
        self.group.broadcast(opening)
        self._tpp = Tpp(self.group, self, opening, features)
        return self._tpp

    def stages(self, num_steps: int) -> tuple[RankWork, ...]:
        """As `Engine.stages`."""
        world = self.group.world
        if self.decode_layers is None or self.own_decoder or world == 1:
            return split(num_steps, world, self.own_decoder)
        return split_layers(num_steps, self.config.dit.num_layers, world, self.decode_layers)

    @contextmanager
    def job(self) -> Iterator[None]:
        """Around a job: however it ends, the other ranks are free for the next one, unless the group is broken."""
        self._opened, self._tpp = False, None
        try:
            yield
        except GroupError:
            self._opened, self._tpp = True, None
            raise
        finally:
            if self._tpp is not None:
                self._tpp.close()
            elif not self._opened and self.group.world > 1:
                with suppress(GroupError):
                    self.group.broadcast(None)

    def serve(self) -> bool:
        """Take part in the next job of the last rank; False when it came to nothing.

        Raises:
            GroupError: another rank was lost.
        """
        threads = torch.get_num_threads()
        opening: Opening | None = self.group.broadcast(None)
        if opening is None:
            return False
        try:
            torch.set_num_threads(opening.threads)
            Worker(self.group, self, opening).work()
        finally:
            torch.set_num_threads(threads)
        return True


class FastGroupEngine(GroupEngine, FastEngine):
    """The same on the fast path."""

    # Width, height and what keys and values are kept in -> `decode_layers` of a job; as it stands when None.
    decoding: Callable[[int, int, str], float] | None = None

    def place(self, spec: DenoiseSpec, given: Conditioning, features: FeaturesOf) -> Placement:
        """As `GroupEngine.place`; layers are spread as `liveavatar plan` says for the job's size."""
        if self.decoding is not None:
            stride = self.config.vae.spatial_stride
            self.decode_layers = self.decoding(spec.w * stride, spec.h * stride, spec.settings.kv_cache_dtype)
        return super().place(spec, given, features)

    def forget_sizes(self) -> None:
        """As `FastEngine.forget_sizes`; the last job's part in it is let go of, too."""
        self._tpp = None
        super().forget_sizes()


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSpec:
    """A place in a group."""

    rank: int
    world: int
    own_decoder: bool  # whether the last rank decodes and nothing else
    fp8: bool = False  # linear layers in 8 bits; GPUs only

    @property
    def parts(self) -> tuple[str, ...]:
        """Networks that the rank needs."""
        if self.rank < self.world - 1:
            return ("dit",)
        return ("vae", "text") if self.own_decoder else ("dit", "vae", "text")


class Rank:
    """A process of a group: its networks, and jobs one after another."""

    def __init__(
        self, model_dir: Path, seat: RankSpec, device: str, dtype: str, limit_s: float = LIMIT_SECONDS
    ) -> None:
        self.model_dir, self.seat = model_dir, seat
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.group = Group(seat.rank, seat.world, self.device, limit_s)
        self._engine: GroupEngine | None = None

    def engine(self) -> GroupEngine:
        """The engine of this rank; what it needs of the model is loaded when first asked for."""
        if self._engine is None:
            seat, where = self.seat, (self.model_dir, self.device, self.dtype)
            log.info("rank %d of %d loads %s", seat.rank, seat.world, ", ".join(seat.parts))
            large = read_config(self.model_dir).fast_path
            if self.device.type == "cuda" and (large or seat.fp8):
                model = load_fast_model(*where, seat.parts, fp8=seat.fp8)
                fast = FastGroupEngine(model, self.group, seat.own_decoder)
                memory_gb = torch.cuda.get_device_properties(self.device).total_memory / GB
                rates = gpu_of(torch.cuda.get_device_name(self.device), memory_gb).rates
                fast.decoding = partial(decode_layers, model.config, rates, seat.fp8)
                self._engine = fast
            else:
                self._engine = GroupEngine(load_model(*where, seat.parts), self.group, seat.own_decoder)
            self._engine.model_dir, self._engine.fp8 = self.model_dir, seat.fp8
        return self._engine

    def serve(self) -> bool:
        """As `GroupEngine.serve`."""
        return self.engine().serve()
