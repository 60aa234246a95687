"""Pictures follow their light, and a batch draws what each shot is alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from liveavatar.training.corpus.head.avatar import Avatar
from liveavatar.training.corpus.head.geometry import HeadAssets
from liveavatar.training.corpus.render import shading
from liveavatar.training.corpus.render.framing import eye_centres, framing
from liveavatar.training.corpus.render.look import Backdrop, Lighting
from liveavatar.training.corpus.render.scene import Shot
from liveavatar.training.corpus.render.shading import render

SIZE = (48, 32)
BLACK = Backdrop(kind="plain", words="", image=torch.zeros(3, 48, 32))
NONE = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def shot(assets: HeadAssets) -> Shot:
    """A person before black, in a faint grey light."""
    avatar = Avatar(assets, 5)
    rest = torch.zeros(1, len(assets.expression_names))
    posed = avatar.pose(rest, torch.zeros(1, 3), torch.zeros(1, 2))
    return Shot(avatar, *posed, light((0.0, 0.5, 0.87), 0.0, 0.1), BLACK)


def light(direction: tuple[float, float, float], key: float, ambient: float) -> Lighting:
    return Lighting(
        name="n", words="", key_direction=direction, key=(key,) * 3, fill=NONE, back=NONE, ambient=(ambient,) * 3
    )


def drawn(*shots: Shot) -> np.ndarray:
    """Mean of the colours of each picture, [B, H, W]."""
    first = shots[0]
    camera = framing(eye_centres(first.avatar.assets, first.vertices[0]), *SIZE)
    return render(list(shots), camera, supersample=1).float().mean(-1).numpy()


@pytest.mark.parametrize("side", [-1, 1])
def test_the_side_towards_the_key_light_is_bright(side: int, shot: Shot) -> None:
    picture = drawn(replace(shot, lighting=light((side * 0.94, 0.1, 0.33), 2.0, 0.0)))[0]
    right_of_picture, left_of_picture = picture[14:26, 17:23].mean(), picture[14:26, 9:15].mean()  # the cheeks
    near, far = (right_of_picture, left_of_picture)[::side]
    assert near > 2 * far, "+x is the subject's left: the right of the picture"


def test_without_light_the_picture_is_black_and_more_light_is_brighter(shot: Shot) -> None:
    dark, dim, bright = (drawn(replace(shot, lighting=light((0.0, 0.0, 1.0), 0.0, a))).mean() for a in (0.0, 0.3, 0.9))
    assert dark == 0
    assert 5 < dim < bright


def test_the_chin_casts_a_shadow_on_the_neck(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    above = replace(shot, lighting=light((0.0, 0.77, 0.64), 2.0, 0.0))
    shaded = drawn(above)[0]
    monkeypatch.setattr(shading, "depth_of", lambda keys, empty: torch.full(keys.shape, empty))  # nothing is in the way
    free = drawn(above)[0]
    neck, forehead, middle = slice(31, 35), slice(9, 12), slice(14, 18)
    assert shaded[neck, middle].mean() < 0.5 * free[neck, middle].mean()
    assert shaded[forehead, middle].mean() > 0.95 * free[forehead, middle].mean()


def test_a_batch_draws_what_each_shot_is_alone(shot: Shot, assets: HeadAssets) -> None:
    other = Avatar(assets, 6)
    rest = torch.zeros(2, len(assets.expression_names))
    posed = other.pose(rest, torch.tensor([[0.2, 0, 0], [0, 0.1, 0]]), torch.zeros(2, 2))
    white = Backdrop(kind="plain", words="", image=torch.full((3, 48, 32), 0.8))
    second = Shot(other, *posed, light((0.5, 0.5, 0.7), 1.5, 0.3), white)
    camera = framing(eye_centres(assets, shot.vertices[0]), *SIZE)
    together = render([shot, second], camera, supersample=1)
    apart = torch.cat([render([s], camera, supersample=1) for s in (shot, second)])
    assert together.shape == (3, *SIZE, 3)
    assert int((together.int() - apart.int()).abs().max()) <= 1


def test_supersampling_smooths_the_same_picture(shot: Shot) -> None:
    lit = replace(shot, lighting=light((0.3, 0.4, 0.87), 1.5, 0.4))
    camera = framing(eye_centres(shot.avatar.assets, shot.vertices[0]), *SIZE)
    once, twice = (render([lit], camera, s)[0].float() for s in (1, 2))
    assert (once - twice).abs().mean() < 6
    grain = [p[12:26, 10:22].diff(dim=0).abs().mean() for p in (once, twice)]
    assert grain[1] < grain[0]
