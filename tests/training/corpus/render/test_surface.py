"""Paint of fragments: eyes by angle, mouth by depth, cloth by its pattern, and what has holes."""

import math

import pytest
import torch

from liveavatar.training.corpus.head.avatar import Avatar
from liveavatar.training.corpus.head.geometry import CURLY, EYE_CENTRES, Attr, HeadAssets, Material, dot
from liveavatar.training.corpus.render.surface import (
    Fragments,
    Surface,
    cloth_exists,
    hair_exists,
    lash_exists,
    paint,
    strand_direction,
)


@pytest.fixture(scope="module")
def avatar(assets: HeadAssets) -> Avatar:
    return Avatar(assets, 5)


def fragments(
    avatar: Avatar,
    material: Material,
    rest: torch.Tensor,
    attributes: dict[int, float] | None = None,
    **more: list[float],
) -> Fragments:
    """Points of one material at rest positions [P, 3], with further attributes and changed parameters."""
    count = len(rest)
    table = torch.zeros(count, Attr.WIDTH)
    table[:, Attr.REST] = rest
    facing = torch.tensor([0.0, 0, 1]).expand(count, 3)
    parameters = {name: value[None] for name, value in avatar.parameters.items()}
    parameters |= {name: torch.tensor([value]) for name, value in more.items()}
    none = torch.zeros(count, dtype=torch.long)
    return Fragments(
        frame=none, material=torch.full((count,), material.value), attributes=table, position=rest, normal=facing,
        view=facing, parameters=parameters, brow_textures=avatar.brow_texture[None], avatar=none,
        rotation=torch.eye(3)[None], curls=False,
    )  # fmt: skip


def painted(avatar: Avatar, *what: object, **more: object) -> Surface:
    return paint(avatar.assets, fragments(avatar, *what, **more))  # type: ignore[arg-type]


def on_eye(*degrees: float) -> torch.Tensor:
    """Points of the left eye so far from its optical axis, towards its side."""
    angle = torch.tensor([math.radians(d) for d in degrees])
    return torch.tensor(EYE_CENTRES[0]) + 1.2 * torch.stack([angle.sin(), 0 * angle, angle.cos()], 1)


def test_an_eye_is_pupil_iris_and_white(avatar: Avatar) -> None:
    pupil, iris, ring, white = painted(avatar, Material.EYE, on_eye(3, 17, 24.5, 40), iris=[0.1, 0.2, 0.4]).albedo
    assert pupil.max() < 0.01
    assert iris[2] > 1.5 * iris[0], "the colour of the iris"
    assert ring.mean() < 0.6 * white.mean(), "a dark ring between iris and white"
    assert white.min() > 0.6


def test_eyes_are_smooth_and_skin_is_not(avatar: Avatar) -> None:
    eye = painted(avatar, Material.EYE, on_eye(10.0))
    skin = painted(avatar, Material.SKIN, torch.tensor([[5.0, 0, 8]]))
    assert float(eye.roughness) == pytest.approx(0.1)
    assert float(skin.roughness) > 0.3


@pytest.mark.parametrize("material", [Material.TEETH, Material.GUM, Material.SOCKET])
def test_the_mouth_is_darker_with_depth(material: Material, avatar: Avatar) -> None:
    front, back = painted(avatar, material, torch.tensor([[0.0, -3.7, 10.4], [0.0, -3.7, 5.5]])).cavity
    assert float(back) == pytest.approx(0.12)
    assert float(front) > 0.8


def test_teeth_have_roots_of_gum(avatar: Avatar) -> None:
    crown, upper, lower = painted(
        avatar, Material.TEETH, torch.tensor([[0.0, -3.3, 10.3], [0.0, -2.4, 10.3], [0.0, -4.8, 10.3]])
    ).albedo
    assert crown.min() > 0.5
    torch.testing.assert_close(upper, torch.tensor([0.42, 0.16, 0.15]), atol=0.02, rtol=0)
    torch.testing.assert_close(lower, upper, atol=0.02, rtol=0)


def cloth(avatar: Avatar, points: list[list[float]], pattern: list[float]) -> torch.Tensor:
    colours = {"cloth": [0.5, 0.0, 0.0], "cloth2": [0.0, 0.0, 0.5], "collar": [0.0, 0.0, 0.0]}
    return painted(avatar, Material.CLOTH, torch.tensor(points), pattern=pattern, **colours).albedo


def test_stripes_alternate_with_their_period(avatar: Avatar) -> None:
    period = 2.0
    colours = cloth(avatar, [[8.0, -20 - y, 0.0] for y in (0.0, 1.0, 2.0, 3.0)], [1.0, 0.0, period])
    blue = colours[:, 2] > colours[:, 0]
    assert blue[0] == blue[2] != blue[1] == blue[3]


def test_a_jacket_opens_in_front(avatar: Avatar) -> None:
    front, side, behind = cloth(avatar, [[0.0, -15, 8], [9.0, -15, 8], [0.0, -15, -8]], [0.0, 1.0, 2.0])
    assert front[0] > 2 * front[2], "the shirt"
    assert side[2] > 2 * side[0]
    assert behind[2] > 2 * behind[0], "the coat"


def test_cloth_ends_at_the_neckline() -> None:
    collar = torch.tensor([[-11.0, 0.0, 0.0]]).expand(2, 3)
    assert cloth_exists(torch.tensor([[0.0, -11.1, 0], [0.0, -10.9, 0]]), collar).tolist() == [True, False]


def test_hair_is_ragged_at_its_border_alone(assets: HeadAssets) -> None:
    points = torch.zeros(500, Attr.MODE + 1)
    points[:, Attr.ACROSS] = torch.linspace(0, 20, 500)
    for edge, low, high in ((-0.1, 0.0, 0.0), (0.7, 0.1, 0.9), (9.0, 1.0, 1.0)):
        points[:, Attr.EDGE] = edge
        assert low <= float(hair_exists(assets, points, False).float().mean()) <= high


def test_curls_are_less_ragged_than_straight_hair(assets: HeadAssets) -> None:
    points = torch.zeros(500, Attr.MODE + 1)
    points[:, Attr.ACROSS], points[:, Attr.EDGE] = torch.linspace(0, 20, 500), 0.7
    straight = hair_exists(assets, points, False).float().mean()
    points[:, Attr.MODE] = CURLY
    assert hair_exists(assets, points, False).float().mean() > straight


def test_lashes_are_single_hairs_thick_at_the_root() -> None:
    def share(t: float, row: float = 4.0) -> float:
        points = torch.zeros(2000, Attr.LASH_ROW + 1)
        points[:, Attr.LASH_U] = torch.linspace(0, 40, 2000)
        points[:, Attr.LASH_T], points[:, Attr.LASH_ROW] = t, row
        return float(lash_exists(points).float().mean())

    assert share(0.2) == 0, "no hair is as long as that"
    assert 0 < share(0.5) < share(1.0) < 0.8
    assert share(1.0, row=2.0) == 0
    assert share(1.0, row=5.0) < share(1.0)


def test_brows_are_drawn_on_the_skin_of_the_forehead_alone(avatar: Avatar) -> None:
    grid = torch.cartesian_prod(torch.linspace(0.5, 6.8, 30), torch.linspace(4.3, 7.9, 20))
    front = torch.cat([grid, torch.full((len(grid), 1), 9.0)], 1)
    drawn = painted(avatar, Material.SKIN, front)
    assert float(drawn.dry.min()) < 0.5
    assert float(drawn.dry.max()) == 1
    mirrored = painted(avatar, Material.SKIN, front * torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(mirrored.dry, drawn.dry)
    behind = painted(avatar, Material.SKIN, front * torch.tensor([1.0, 1, -1]))
    assert float(behind.dry.min()) == 1


def test_strands_lie_in_the_surface(avatar: Avatar) -> None:
    f = fragments(avatar, Material.HAIR, torch.randn(20, 3))
    f.attributes[:, Attr.TANGENT] = torch.nn.functional.normalize(torch.randn(20, 3), dim=1)
    one = torch.ones(20, 1)
    surface = Surface(one.expand(-1, 3), f.normal, one, one, one, torch.zeros(20, 2))
    tangent = strand_direction(f, surface)
    torch.testing.assert_close(tangent.norm(dim=1), torch.ones(20))
    assert float(dot(tangent, f.normal).abs().max()) < 0.02
