"""Spreading of steps and layers over ranks: contiguous, nothing twice, nobody idle."""

import math

import pytest

from liveavatar.engine.placement import (
    RankTimes,
    RankWork,
    Span,
    circulate,
    lap_tasks,
    share_layers,
    split,
    split_layers,
    spread_layers,
)
from liveavatar.errors import InputError


@pytest.mark.parametrize(
    ("steps", "ranks", "own", "expected"),
    [
        pytest.param(4, 1, None, ["steps 1-4 + decoder"], id="one rank"),
        pytest.param(4, 2, None, ["steps 1-2", "steps 3-4 + decoder"], id="even"),
        pytest.param(4, 3, None, ["steps 1-2", "step 3", "step 4 + decoder"], id="the decoder's rank has fewer"),
        pytest.param(5, 4, None, ["steps 1-2", "step 3", "step 4", "step 5 + decoder"], id="five steps on four"),
        pytest.param(3, 4, None, ["step 1", "step 2", "step 3", "decoder"], id="a rank too many decodes"),
        pytest.param(4, 3, True, ["steps 1-2", "steps 3-4", "decoder"], id="decoder apart"),
    ],
)
def test_steps_are_spread(steps: int, ranks: int, own: bool | None, expected: list[str]) -> None:
    stages = split(steps, ranks, own)
    assert [s.role for s in stages] == expected
    assert [s.rank for s in stages] == list(range(ranks))
    assert [i for s in stages for i in s.steps] == list(range(steps))


@pytest.mark.parametrize(("steps", "ranks", "own"), [(4, 6, None), (4, 5, False), (3, 1, True)])
def test_idle_ranks_are_refused(steps: int, ranks: int, own: bool | None) -> None:
    with pytest.raises(InputError, match=r"use at most \d"):
        split(steps, ranks, own)


@pytest.mark.parametrize(
    ("ranks", "decode_layers", "expected"),
    [
        pytest.param(4, 0.0, ["step 1", "step 2", "step 3", "step 4 + decoder"], id="a decoder that costs nothing"),
        pytest.param(
            4,
            28.0,
            [
                "steps 1-2 up to layer 7",
                "steps 2-3 from layer 7 up to layer 14",
                "steps 3-4 from layer 14 up to layer 21",
                "step 4 from layer 21 + decoder",
            ],
            id="as much as 28 layers",
        ),
        pytest.param(
            3,
            20.0,
            ["steps 1-2 up to layer 20", "steps 2-3 from layer 20", "step 4 + decoder"],
            id="cut at the end of a step",
        ),
        pytest.param(2, 400.0, ["steps 1-4", "decoder"], id="more than all steps"),
        pytest.param(1, 20.0, ["steps 1-4 + decoder"], id="one rank"),
    ],
)
def test_layers_are_spread(ranks: int, decode_layers: float, expected: list[str]) -> None:
    stages = split_layers(4, 40, ranks, decode_layers)
    assert [s.role for s in stages] == expected
    layers = [(span.step, layer) for s in stages for span in s.spans(40) for layer in span.layers]
    assert layers == [(step, layer) for step in range(4) for layer in range(40)]


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        split_layers(1, 2, 5, 0.0)


@pytest.mark.parametrize("decode_layers", [0.0, 13.0, 28.0, 60.0])
@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 6, 7, 8])
def test_every_rank_is_busy_for_about_as_long(ranks: int, decode_layers: float) -> None:
    works = split_layers(4, 40, ranks, decode_layers)
    layers = [sum(len(span.layers) for span in work.spans(40)) for work in works]
    assert [work.decodes for work in works] == [False] * (ranks - 1) + [True]
    share = (4 * 40 + decode_layers) / ranks
    if decode_layers > share:
        assert layers[-1] == 0
        share = 4 * 40 / (ranks - 1)
    assert all(abs(count - share) <= 1 for count in layers[:-1])


@pytest.mark.parametrize("ranks", [2, 5, 6, 7, 8])
def test_no_division_is_faster_than_the_bound_and_ours_misses_it_by_less_than_a_layer(ranks: int) -> None:
    for rest in (0.0, 13.0, 28.0, 60.0, 200.0):
        times = RankTimes((1.0,) * ranks, rest)
        taken = max(times.busy([work.num_layers_of(40) for work in split_layers(4, 40, ranks, rest)]))
        assert times.bound(160) <= taken < times.bound(160) + 1 or taken == pytest.approx(rest)


def test_slow_ranks_have_fewer_layers_and_full_ones_no_more_than_they_hold() -> None:
    times = RankTimes((1.0, 2.0, 1.0), 20.0)
    works = spread_layers(4, 40, times)
    assert [work.num_layers_of(40) for work in works] == [72, 36, 52]
    assert times.bound(160) == pytest.approx(72)
    layers = [(span.step, layer) for work in works for span in work.spans(40) for layer in span.layers]
    assert layers == [(step, layer) for step in range(4) for layer in range(40)]
    full = spread_layers(4, 40, times, most=(50, 160, 60))
    assert [work.num_layers_of(40) for work in full] == [50, 50, 60]
    with pytest.raises(InputError, match="do not fit"):
        spread_layers(4, 40, times, most=(50, 50, 50))


def test_a_decoder_may_be_all_that_a_rank_does() -> None:
    assert split_layers(4, 40, 5, math.inf) == split(4, 5)
    works = split_layers(4, 40, 7, math.inf)
    assert sorted(work.num_layers_of(40) for work in works) == [0, 26, 26, 27, 27, 27, 27]
    assert works[-1].role == "decoder"


@pytest.mark.parametrize("steps", range(1, 7))
@pytest.mark.parametrize("ranks", range(2, 9))
def test_in_a_circle_every_layer_of_every_step_has_one_rank(ranks: int, steps: int) -> None:
    times = RankTimes((1.0,) * ranks, 20.0)
    layers = share_layers(steps, 40, times)
    works = circulate(steps, layers)
    assert [work.rank for work in works if work.decodes] == [ranks - 1]
    for step in range(steps):
        run = [layer for work in works for span in work.spans(40) if span.step == step for layer in span.layers]
        assert run == list(range(40))
    assert tuple(work.num_layers_of(40) for work in works) == tuple(steps * count for count in layers)
    assert min(layers) >= 1
    busy = times.busy([steps * count for count in layers])
    others = (
        tuple(count + (rank == to) - (rank == of) for rank, count in enumerate(layers))
        for of in range(ranks)
        for to in range(ranks)
        if of != to and layers[of] > 1
    )
    assert all(max(busy) <= max(times.busy([steps * count for count in other])) for other in others), "none is better"


def test_in_a_circle_slow_and_full_ranks_have_fewer_layers() -> None:
    assert share_layers(4, 40, RankTimes((1.0, 2.0, 1.0), 0.0)) == (16, 8, 16)
    assert share_layers(4, 40, RankTimes((1.0,) * 3, 0.0), most=(40, 5, 40)) == (18, 5, 17)
    with pytest.raises(InputError, match=r"40 layers do not fit 3 ranks with room for \[20, 5, 10\]"):
        share_layers(4, 40, RankTimes((1.0,) * 3, 0.0), most=(20, 5, 10))
    with pytest.raises(InputError, match="room for"):
        share_layers(4, 40, RankTimes((1.0,) * 3, 0.0), most=(40, 0, 40))
    with pytest.raises(InputError, match="2 layers are too few"):
        share_layers(4, 2, RankTimes((1.0,) * 3, 0.0))


@pytest.mark.parametrize("steps", range(1, 7))
@pytest.mark.parametrize("ranks", range(2, 9))
def test_blocks_that_enter_at_their_distance_never_want_a_rank_at_the_same_time(ranks: int, steps: int) -> None:
    lap = lap_tasks(steps, ranks)
    assert ranks < lap <= ranks + 5
    taken = [block * steps + step * lap for block in range(4 * lap) for step in range(steps)]
    assert len(set(taken)) == len(taken)


def test_a_share_is_named_in_words() -> None:
    first, middle, last = circulate(4, (2, 3, 1))
    assert first.role == "each step from layer 0 up to layer 2"
    assert middle.role == "each step from layer 2 up to layer 5"
    assert last.role == "each step from layer 5 + decoder"
    assert RankWork(rank=1, steps=(), decodes=True).role == "decoder"
    assert RankWork(rank=0, steps=(2,), decodes=False, first_layer=3).role == "step 3 from layer 3"


def test_a_span_is_a_whole_step_or_a_part() -> None:
    assert Span(1, range(8)).whole(8)
    assert not Span(1, range(8)).whole(9)
    assert not Span(1, range(1, 8)).whole(8)
    assert RankWork(rank=0, steps=(), decodes=True).spans(8) == ()
