"""Rotary positions: relative, one run of pairs for each axis, of any length."""

import pytest
import torch

from liveavatar.model.rope import THETA, axis_pairs, grid_rotation, rotate, rotation

CPU = torch.device("cpu")
H = 12


def at(t: int, y: int = 0, x: int = 0) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([n]) for n in (t, y, x))


@pytest.mark.parametrize(
    ("head_dim", "pairs"), [(128, (22, 21, 21)), (32, (6, 5, 5)), (64, (12, 10, 10)), (12, (2, 2, 2))]
)
def test_pairs_are_split_over_the_axes_and_time_has_the_rest(head_dim: int, pairs: tuple[int, int, int]) -> None:
    assert axis_pairs(head_dim) == pairs
    assert sum(pairs) == head_dim // 2


def test_each_axis_turns_its_own_pairs() -> None:
    angles = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert rotation(*at(0), H).cos.tolist() == [[1.0] * 6]
    for axis in range(3):
        position = [0, 0, 0]
        position[axis] = 2
        wanted = angles.copy()
        wanted[2 * axis], wanted[2 * axis + 1] = 2.0, 2.0 * THETA**-0.5
        made = rotation(*at(*position), H)
        torch.testing.assert_close(torch.atan2(made.sin, made.cos), torch.tensor([wanted]))


@pytest.mark.parametrize("moved", [7, 1_000_000], ids=["a little", "eleven hours"])
def test_products_depend_on_the_distance_alone(moved: int) -> None:
    q, k = torch.randn(1, H), torch.randn(1, H)

    def product(a: int, b: int) -> torch.Tensor:
        return (rotate(q, rotation(*at(a, 3, 5), H)) * rotate(k, rotation(*at(b, 1, 2), H))).sum()

    torch.testing.assert_close(product(4 + moved, 1 + moved), product(4, 1), atol=1e-5, rtol=1e-5)
    assert not torch.isclose(product(4, 1), product(1, 4))


def test_a_negative_position_turns_back() -> None:
    x = torch.randn(3, H)
    there = rotate(x, rotation(*(p.expand(3) for p in at(5, 2, 1)), H))
    torch.testing.assert_close(rotate(there, rotation(*(p.expand(3) for p in at(-5, -2, -1)), H)), x)


def test_pairs_lie_next_to_one_another_and_the_dtype_is_kept() -> None:
    quarter = rotation(*at(0), H)
    turned = rotate(torch.arange(12.0)[None], type(quarter)(torch.zeros(1, 6), torch.ones(1, 6)))
    assert turned.tolist() == [[-1.0, 0.0, -3.0, 2.0, -5.0, 4.0, -7.0, 6.0, -9.0, 8.0, -11.0, 10.0]]
    assert rotate(torch.ones(1, H, dtype=torch.bfloat16), quarter).dtype == torch.bfloat16


def test_a_grid_is_flattened_time_first_and_width_last() -> None:
    grid = grid_rotation(range(3, 5), 2, 3, H, False, CPU)
    positions = [(t, y, x) for t in (3, 4) for y in range(2) for x in range(3)]
    one_by_one = rotation(*torch.tensor(positions).unbind(-1), H)
    assert torch.equal(grid.cos, one_by_one.cos)
    assert torch.equal(grid.sin, one_by_one.sin)
    assert torch.equal(grid[2:4].sin, one_by_one.sin[2:4])


def test_released_weights_see_angles_in_16_bits() -> None:
    exact, half = (rotation(*at(37, 5, 6), H, half) for half in (False, True))
    assert torch.equal(half.cos, exact.cos.half().float())
    assert not torch.equal(half.cos, exact.cos)
