"""Screen-space steps: occlusion of flat and of hidden places, blur of skin, tone curve."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar.training.corpus.head.geometry import Camera, Material
from liveavatar.training.corpus.render.look import Backdrop, Lighting
from liveavatar.training.corpus.render.raster import EMPTY
from liveavatar.training.corpus.render.scene import PixelMap
from liveavatar.training.corpus.render.screen import backdrops, develop, occlusion, skin_blur

CAMERA = Camera(height=64, width=48)


def pixel_map(scale: int = 1, empty: slice = slice(0)) -> PixelMap:
    """One frame whose samples all show something, but for `empty`."""
    keys = torch.zeros(CAMERA.height * CAMERA.width * scale * scale, dtype=torch.long)
    keys[empty] = EMPTY
    return PixelMap(keys, 1, CAMERA, scale)


def plane(pixels: PixelMap) -> torch.Tensor:
    """A wall facing the camera, 0.66 cm a pixel."""
    row, column = pixels.pixel // CAMERA.width, pixels.pixel % CAMERA.width
    return torch.stack([column * 0.66, -row * 0.66, torch.zeros(len(row))], 1)


def test_a_flat_wall_is_open_and_a_place_beside_a_step_is_not() -> None:
    pixels = pixel_map()
    position = plane(pixels)
    normal = torch.tensor([0.0, 0, 1]).expand_as(position)
    assert float(occlusion(SimpleNamespace(position=position), normal, pixels, CAMERA).min()) == 1  # type: ignore[arg-type]
    position[position[:, 0] > 16, 2] = 3.0  # the right half stands out
    found = occlusion(SimpleNamespace(position=position), normal, pixels, CAMERA).reshape(64, 48)  # type: ignore[arg-type]
    assert found[32, 23] < 0.8
    assert found[32, 8] == 1
    assert found[32, 40] == 1


def test_blur_keeps_even_light_and_spreads_red_furthest() -> None:
    pixels = pixel_map()
    material = torch.full((len(pixels.pixel),), Material.SKIN.value)
    material[::7] = Material.HAIR.value  # does not darken its neighbours
    even = torch.ones(len(material), 3) * torch.tensor([0.2, 0.5, 0.9])
    f: Any = SimpleNamespace(material=material)
    skin = material == Material.SKIN.value
    torch.testing.assert_close(skin_blur(even, f, pixels, CAMERA)[skin], even[skin], atol=1e-5, rtol=1e-5)

    spot = torch.zeros(len(material), 3)
    spot[32 * 48 + 24] = 1.0
    f = SimpleNamespace(material=torch.full_like(material, Material.SKIN.value))
    large = Camera(height=64, width=48, zoom=6)  # so that a spread is pixels wide
    red, green, blue = skin_blur(spot, f, pixels, large)[32 * 48 + 24]
    assert 0 < red < green < blue < 1


@pytest.mark.parametrize("scale", [1, 2])
def test_develop_puts_fragments_over_the_backdrop(scale: int) -> None:
    samples = CAMERA.height * CAMERA.width * scale * scale
    pixels = pixel_map(scale, slice(samples // 2, None))
    colour = torch.full((samples // 2, 3), 100.0)
    behind = torch.zeros(samples, 3)
    scene: Any = SimpleNamespace(shot=torch.tensor([0]))
    picture = develop(colour, behind, scene, pixels)[0]
    assert (picture.shape, picture.dtype) == ((64, 48, 3), torch.uint8)
    assert picture[:32].unique().tolist() == [255]
    assert picture[32:].unique().tolist() == [0]


def test_tone_curve_is_the_filmic_one() -> None:
    scene: Any = SimpleNamespace(shot=torch.tensor([0]))
    light = torch.tensor([0.05, 0.18, 0.5])
    v = 1.05 * light.double()
    wanted = ((v * (2.51 * v + 0.03)) / (v * (2.43 * v + 0.59) + 0.14)) ** (1 / 2.2) * 255
    made = develop(light.expand(64 * 48, 3), torch.zeros(64 * 48, 3), scene, pixel_map())[0, 0, 0]
    assert made.tolist() == wanted.round().int().tolist()


def lighting(ambient: tuple[float, float, float], fill: tuple[float, float, float]) -> Lighting:
    zero = (0.0, 0.0, 0.0)
    return Lighting(name="n", words="", key_direction=(0.0, 0.0, 1.0), key=zero, fill=fill, back=zero, ambient=ambient)


@pytest.mark.parametrize(
    ("ambient", "expected"),
    [
        pytest.param((0.6, 0.6, 0.6), (0.5, 0.5, 0.5), id="bright and grey: as painted"),
        pytest.param((0.0, 0.0, 0.0), (0.275, 0.275, 0.275), id="no ambient light: darker"),
        pytest.param((0.9, 0.6, 0.3), (0.625, 0.5, 0.375), id="half of the tint of the light"),
    ],
)
def test_backdrop_takes_the_light(ambient: tuple[float, float, float], expected: tuple[float, ...]) -> None:
    backdrop = Backdrop(kind="plain", words="", image=torch.full((3, 8, 6), 0.5))
    fill = (1e-6, 1e-6, 1e-6)
    shot: Any = SimpleNamespace(backdrop=backdrop, lighting=lighting(ambient, fill))
    made = backdrops([shot, shot], pixel_map())
    assert made.shape == (2 * 64 * 48, 3)
    torch.testing.assert_close(made, torch.tensor(expected).expand_as(made), atol=2e-3, rtol=0)
