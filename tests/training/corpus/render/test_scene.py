"""Scenes of several shots, and the mapping between pictures, samples and fragments."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from liveavatar.training.corpus.head.avatar import Avatar
from liveavatar.training.corpus.head.geometry import Camera, HeadAssets
from liveavatar.training.corpus.render.look import draw_backdrop, draw_lighting
from liveavatar.training.corpus.render.raster import EMPTY
from liveavatar.training.corpus.render.scene import (
    PixelMap,
    Shot,
    enlarged,
    interpolate,
    join,
    place_of,
    rows_of,
)


@pytest.fixture(scope="module")
def shots(assets: HeadAssets) -> list[Shot]:
    """One frame of one person, two of another."""
    made = []
    for seed, frames in ((1, 1), (2, 2)):
        rng, avatar = np.random.default_rng(seed), Avatar(assets, seed)
        rest = torch.zeros(frames, len(assets.expression_names))
        posed = avatar.pose(rest, 0.1 * torch.arange(3 * frames).reshape(frames, 3), torch.zeros(frames, 2))
        made.append(Shot(avatar, *posed, draw_lighting(rng), draw_backdrop(rng, 32, 24)))
    return made


def test_each_frame_has_its_own_triangles(shots: list[Shot]) -> None:
    scene = join(shots)
    counts = [len(s.avatar.faces) for s in shots]
    assert scene.frame.bincount().tolist() == [counts[0], counts[1], counts[1]]
    assert scene.shot.tolist() == [0, 1, 1]
    assert torch.equal(scene.point_frame[scene.triangles].amin(1), scene.frame), "no triangle joins two frames"
    assert torch.equal(scene.point_frame[scene.triangles].amax(1), scene.frame)
    length = scene.normals[scene.triangles].norm(dim=2)
    assert float(((length - 1).abs() < 1e-5).float().mean()) > 0.999


def test_a_joined_shot_is_what_it_is_alone(shots: list[Shot]) -> None:
    whole, alone = join(shots), join(shots[1:])
    part = whole.frame > 0
    assert torch.equal(whole.points[whole.triangles[part]], alone.points[alone.triangles])
    assert torch.equal(whole.normals[whole.triangles[part]], alone.normals[alone.triangles])
    assert torch.equal(whole.attributes[whole.rest_triangles[part]], alone.attributes[alone.rest_triangles])
    assert torch.equal(whole.material[part], alone.material)
    assert torch.equal(whole.parameters["tone"][1], alone.parameters["tone"][0])


def test_tables_have_two_rows_at_least(shots: list[Shot]) -> None:
    assert rows_of(shots) == shots
    assert rows_of(shots[:1]) == [shots[0], shots[0]]


def test_interpolation_meets_the_corners_and_the_middle() -> None:
    table = torch.tensor([[0.0, 1.0], [3.0, 1.0], [0.0, 7.0]])
    corners = torch.tensor([[0, 1, 2]]).expand(4, -1)
    w1, w2 = torch.tensor([0, 1, 0, 1 / 3]), torch.tensor([0, 0, 1, 1 / 3])
    torch.testing.assert_close(interpolate(table, corners, w1, w2), torch.cat([table, table.mean(0)[None]]))


def test_place_of_a_pixel() -> None:
    frame, row, column = place_of(torch.tensor([0, 5, 11, 12 + 7]), torch.tensor(3), torch.tensor(4))
    assert (frame.tolist(), row.tolist(), column.tolist()) == ([0, 0, 0, 1], [0, 1, 2, 1], [0, 1, 3, 3])


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_enlarging_is_bilinear(scale: int) -> None:
    low = torch.randn(2, 3, 4, 5)  # [B, C, H, W]
    flat = low.permute(0, 2, 3, 1).reshape(-1, 3)
    pixel = torch.arange(2 * 4 * scale * 5 * scale)
    wanted = F.interpolate(low, scale_factor=scale, mode="bilinear", align_corners=False)
    got = enlarged(flat, pixel, torch.tensor([4 * scale, 5 * scale], dtype=torch.int32), scale)
    torch.testing.assert_close(got, wanted.permute(0, 2, 3, 1).reshape(-1, 3), atol=1e-5, rtol=1e-5)


def test_fragments_are_numbered_in_the_order_of_their_pixels() -> None:
    keys = torch.full((2 * 4 * 4,), EMPTY)
    keys[[3, 17]] = torch.tensor([(5 << 32) | 9, (5 << 32) | 2])
    pixels = PixelMap(keys, 2, Camera(height=2, width=2), 2)
    assert (pixels.pixel.tolist(), pixels.triangle.tolist()) == ([3, 17], [9, 2])
    assert (pixels.slot[3], pixels.slot[17], pixels.slot[4]) == (0, 1, -1)
    values = torch.arange(8.0)[:, None]
    assert pixels.pictures(values)[1, 0].tolist() == [[4, 5], [6, 7]]
