"""Jobs on a group: shares of the ranks, and the end of a job, whichever way it ends, on all of them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from liveavatar.config import TINY
from liveavatar.distributed import placement as placement_module
from liveavatar.distributed.group import Group, GroupError
from liveavatar.distributed.placement import GroupPlacement, RankSpec
from liveavatar.distributed.tpp import Opening
from liveavatar.engine.backend import Backend
from liveavatar.engine.denoiser import Conditioning, DenoiseSpec
from liveavatar.engine.placement import circulate, split, split_layers
from liveavatar.engine.settings import RenderSettings
from liveavatar.engine.single import Single
from liveavatar.errors import InputError

CPU = torch.device("cpu")
SPEC = DenoiseSpec(settings=RenderSettings(prompt="p"), sigmas=(1.0, 0.5, 0.25, 0.1, 0.0), num_blocks=3, h=2, w=4)
CONDITIONING = Conditioning(torch.ones(1, 2, 3), torch.ones(1, 8, 1, 2, 4), torch.ones(1, 8, 19, 2, 4))
BACKEND = cast(Backend, SimpleNamespace(config=TINY, denoiser=lambda *_: None))


class FakeGroup:
    """A group whose broadcasts are kept."""

    def __init__(self, world: int) -> None:
        self.world, self.broadcasts = world, list[Any]()
        self.given: Any = None  # what the last rank sends

    def broadcast(self, value: Any) -> Any:
        self.broadcasts.append(value)
        return self.given


class FakeTpp:
    """A job on the group."""

    def __init__(self, group: Group, backend: Backend, opening: Opening, *_: Any) -> None:
        self.opening, self.closed = opening, 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> FakeGroup:
    monkeypatch.setattr(placement_module, "Tpp", FakeTpp)
    return FakeGroup(2)


def placed(group: FakeGroup, own_decoder: bool = False, **options: Any) -> GroupPlacement:
    return GroupPlacement(cast(Group, group), num_layers=40, own_decoder=own_decoder, **options)


def place(placement: GroupPlacement) -> Any:
    return placement.place(BACKEND, SPEC, CONDITIONING, lambda _: torch.zeros(1))


@pytest.mark.parametrize(
    ("rank", "world", "own_decoder", "parts"),
    [
        pytest.param(0, 1, False, ("dit", "vae", "text"), id="alone"),
        pytest.param(0, 3, True, ("dit",), id="first"),
        pytest.param(1, 3, False, ("dit",), id="between"),
        pytest.param(2, 3, False, ("dit", "vae", "text"), id="last"),
        pytest.param(2, 3, True, ("vae", "text"), id="last, which only decodes"),
    ],
)
def test_a_rank_needs_some_networks(rank: int, world: int, own_decoder: bool, parts: tuple[str, ...]) -> None:
    assert RankSpec(rank=rank, world=world, own_decoder=own_decoder).parts == parts


def test_steps_are_spread_and_layers_where_the_weight_of_decoding_is_known() -> None:
    steps = placed(FakeGroup(3))
    assert steps.works(4) == split(4, 3, False)
    steps.decode_layers = 20.0
    assert steps.works(4) == split_layers(4, 40, 3, 20.0)
    steps.own_decoder = True
    assert steps.works(4) == split(4, 3, True)


def test_a_job_is_opened_on_all_ranks_in_the_order_of_their_shares(group: FakeGroup) -> None:
    asked = []

    def decode_layers_of(width: int, height: int, kv_cache_dtype: str) -> float:
        asked.append((width, height, kv_cache_dtype))
        return 28.0

    placement = placed(group, decode_layers_of=decode_layers_of)
    made = place(placement)
    (opening,) = group.broadcasts
    assert asked == [(4 * 16, 2 * 16, "auto")], "pixels, width first"
    assert opening.works == split_layers(4, 40, 2, 28.0)
    assert [work.rank for work in opening.works] == [0, 1]
    assert opening.threads == torch.get_num_threads()
    assert torch.equal(opening.conditioning.motion, CONDITIONING.motion)
    assert placement.current is made
    assert made.opening is opening


def test_a_group_of_one_places_as_a_single_process() -> None:
    alone = FakeGroup(1)
    placement = placed(alone)
    assert isinstance(place(placement), Single)
    with placement.job():
        pass
    assert not alone.broadcasts


@pytest.mark.parametrize("error", [None, InputError("too large")], ids=["well", "with an error of the job"])
def test_a_job_that_ends_is_closed_once(group: FakeGroup, error: Exception | None) -> None:
    placement, jobs = placed(group), []

    def run() -> None:
        with placement.job():
            jobs.append(place(placement))
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(InputError):
            run()
    assert jobs[0].closed == 1
    assert len(group.broadcasts) == 1, "only the opening"
    placement.forget()
    assert placement.current is None


def test_a_job_that_fails_before_it_is_opened_releases_the_others(group: FakeGroup) -> None:
    placement = placed(group)
    with pytest.raises(InputError), placement.job():
        raise InputError("no such size")
    assert group.broadcasts == [None]


def test_a_job_that_fails_while_it_is_opened_is_not_released_as_another(
    group: FakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(placement_module, "Tpp", full)
    placement = placed(group)
    with pytest.raises(torch.OutOfMemoryError), placement.job():
        place(placement)
    assert len(group.broadcasts) == 1, "the others are past the wait for a job"


def test_a_broken_group_is_told_nothing(group: FakeGroup) -> None:
    placement, jobs = placed(group), []

    def run() -> None:
        with placement.job():
            jobs.append(place(placement))
            raise GroupError("rank 0 was lost")

    with pytest.raises(GroupError):
        run()
    assert not jobs[0].closed
    assert len(group.broadcasts) == 1


def test_a_rank_serves_a_job_with_the_threads_of_the_last_rank(
    group: FakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, worked_with = torch.get_num_threads(), []
    group.given = Opening(SPEC, CONDITIONING, split(4, 2), before + 1)

    class FakeWorker:
        def __init__(self, _: Group, backend: Backend, opening: Opening) -> None:
            assert (backend, opening) == (BACKEND, group.given)

        def serve(self) -> None:
            worked_with.append(torch.get_num_threads())
            if len(worked_with) > 1:
                raise GroupError("rank 1 was lost")

    monkeypatch.setattr(placement_module, "Worker", FakeWorker)
    placement = placed(group)
    assert placement.serve(BACKEND)
    with pytest.raises(GroupError):
        placement.serve(BACKEND)
    assert worked_with == [before + 1] * 2
    assert torch.get_num_threads() == before
    group.given = None  # the job failed before it began
    assert not placement.serve(BACKEND)
    assert len(worked_with) == 2


def test_layers_that_are_loaded_go_round(group: FakeGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeCircle(FakeTpp):
        pass

    monkeypatch.setattr(placement_module, "CircularTpp", FakeCircle)
    placement = placed(group, layers=(25, 15), decode_layers_of=lambda *_: 28.0)
    made = place(placement)
    assert isinstance(made, FakeCircle)
    assert made.opening.works == placement.works(4) == circulate(4, (25, 15))
    assert not placement.by_times, "what is loaded is not divided anew"
    served = []

    class FakeWorker:
        def __init__(self, *_: Any) -> None:
            served.append(type(self).__name__)

        def serve(self) -> None:
            pass

    class FakeCircleWorker(FakeWorker):
        pass

    monkeypatch.setattr(placement_module, "Worker", FakeWorker)
    monkeypatch.setattr(placement_module, "CircularWorker", FakeCircleWorker)
    for works in (made.opening.works, split(4, 2)):
        group.given = Opening(SPEC, CONDITIONING, works, torch.get_num_threads())
        assert placement.serve(BACKEND)
    assert served == ["FakeCircleWorker", "FakeWorker"]


def test_a_rank_knows_its_layers() -> None:
    ranks = [RankSpec(rank=rank, world=3, own_decoder=False, layers=(20, 12, 8)) for rank in range(3)]
    assert [rank.kept for rank in ranks] == [range(20), range(20, 32), range(32, 40)]
    assert ranks[2].parts == ("dit", "vae", "text")
    assert RankSpec(rank=1, world=3, own_decoder=False).kept is None
