"""A process of a group: its place, the networks it needs for it, and one job after another."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from liveavatar.checkpoint import LoadedModel, load_model
from liveavatar.denoiser import Conditioning, Course
from liveavatar.engine import Engine, pick_device, pick_dtype
from liveavatar.group import LIMIT_SECONDS, Group, GroupError
from liveavatar.placement import FeaturesOf, Placement, Stage, split
from liveavatar.tpp import Opening, Tpp, Worker, on_device

log = logging.getLogger(__name__)


class GroupEngine(Engine):
    """The engine of the last rank: opens jobs on the whole group."""

    def __init__(self, model: LoadedModel, group: Group, own_decoder: bool) -> None:
        super().__init__(model, group.device)
        self.group, self.own_decoder = group, own_decoder
        self._opened = False
        self._tpp: Tpp | None = None

    def place(self, course: Course, given: Conditioning, features: FeaturesOf) -> Placement:
        """Who denoises a job: the group."""
        if self.group.world == 1:
            return super().place(course, given, features)
        opening = Opening(
            course, on_device(given, torch.device("cpu")), self.stages(course.num_steps), torch.get_num_threads()
        )
        self._opened = True
        self.group.broadcast(opening)
        self._tpp = Tpp(self.group, self, course, opening, features)
        return self._tpp

    def stages(self, num_steps: int) -> tuple[Stage, ...]:
        """As `Engine.stages`."""
        return split(num_steps, self.group.world, self.own_decoder)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A place in a group."""

    rank: int
    world: int
    own_decoder: bool  # whether the last rank decodes and nothing else

    @property
    def parts(self) -> tuple[str, ...]:
        """Networks that the rank needs."""
        if self.rank < self.world - 1:
            return ("dit",)
        return ("vae", "text") if self.own_decoder else ("dit", "vae", "text")


class Member:
    """A process of a group: its networks, and jobs one after another."""

    def __init__(self, model_dir: Path, seat: Seat, device: str, dtype: str, limit_s: float = LIMIT_SECONDS) -> None:
        self.model_dir, self.seat = model_dir, seat
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.group = Group(seat.rank, seat.world, self.device, limit_s)
        self._model: LoadedModel | None = None

    @property
    def model(self) -> LoadedModel:
        """What the rank needs of the model; loaded when first asked for."""
        if self._model is None:
            log.info("rank %d of %d loads %s", self.seat.rank, self.seat.world, ", ".join(self.seat.parts))
            self._model = load_model(self.model_dir, self.device, self.dtype, self.seat.parts)
        return self._model

    def engine(self) -> GroupEngine:
        """The engine of the last rank."""
        return GroupEngine(self.model, self.group, self.seat.own_decoder)

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
            Worker(self.group, self.model, opening).work()
        finally:
            torch.set_num_threads(threads)
        return True
