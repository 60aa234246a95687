"""Named lightings and backdrops of a shot, drawn at random.

Every random choice carries its words for the caption. Colours are linear RGB, light intensities relative
to the shader's exposure, angles in degrees: azimuth to the subject's left, elevation upwards.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.training.corpus.head.colours import COLOURS


@dataclass(frozen=True, kw_only=True, slots=True)
class LightingPreset:
    """Ranges of one kind of lighting."""

    words: tuple[str, ...]
    azimuth: tuple[float, float]  # degrees off the camera, either side
    elevation: tuple[float, float]
    key: tuple[float, float, float]
    fill: tuple[float, float, float]
    back: tuple[float, float, float]
    ambient: tuple[float, float, float]


LIGHTINGS: dict[str, LightingPreset] = {
    "daylight": LightingPreset(
        words=("soft daylight", "natural window light", "soft natural lighting", "even daylight"),
        azimuth=(15, 45), elevation=(25, 42), key=(1.75, 1.78, 1.8), fill=(0.85, 0.9, 0.95), back=(0.5, 0.5, 0.55),
        ambient=(0.46, 0.5, 0.56),
    ),
    "warm": LightingPreset(
        words=("warm indoor light", "warm lighting", "a cosy warm lamp light", "warm tungsten light"),
        azimuth=(20, 50), elevation=(22, 38), key=(2.25, 1.85, 1.4), fill=(0.7, 0.55, 0.42), back=(0.8, 0.6, 0.4),
        ambient=(0.48, 0.4, 0.32),
    ),
    "cool": LightingPreset(
        words=("cool office light", "cool lighting", "cold fluorescent light", "bluish cool light"),
        azimuth=(10, 40), elevation=(30, 45), key=(1.6, 1.85, 2.1), fill=(0.5, 0.6, 0.75), back=(0.5, 0.6, 0.75),
        ambient=(0.4, 0.48, 0.6),
    ),
    "studio": LightingPreset(
        words=("studio lighting", "professional studio light", "a clean three-point studio light", "softbox lighting"),
        azimuth=(28, 42), elevation=(26, 36), key=(2.1, 2.05, 2.0), fill=(0.75, 0.75, 0.78), back=(1.1, 1.1, 1.1),
        ambient=(0.42, 0.43, 0.45),
    ),
    "dramatic": LightingPreset(
        words=("dramatic side light", "hard side lighting", "moody low-key lighting", "strong contrast lighting"),
        azimuth=(62, 78), elevation=(12, 28), key=(2.5, 2.45, 2.4), fill=(0.14, 0.15, 0.18), back=(0.5, 0.5, 0.5),
        ambient=(0.16, 0.17, 0.2),
    ),
    "golden": LightingPreset(
        words=("golden hour light", "warm sunset light", "golden evening sun", "low golden sunlight"),
        azimuth=(35, 60), elevation=(8, 20), key=(2.7, 1.85, 1.05), fill=(0.4, 0.42, 0.5), back=(1.8, 1.2, 0.6),
        ambient=(0.36, 0.32, 0.3),
    ),
    "backlit": LightingPreset(
        words=("backlight with a bright rim", "rim lighting", "strong backlight", "bright contour light"),
        azimuth=(25, 50), elevation=(20, 35), key=(1.15, 1.15, 1.18), fill=(0.5, 0.5, 0.52), back=(3.0, 2.95, 2.9),
        ambient=(0.32, 0.33, 0.36),
    ),
    "neon": LightingPreset(
        words=("neon light in pink and blue", "colourful neon lighting", "purple neon light", "cyberpunk neon glow"),
        azimuth=(40, 65), elevation=(10, 25), key=(2.1, 0.75, 1.7), fill=(0.25, 0.75, 1.7), back=(0.5, 0.5, 1.6),
        ambient=(0.24, 0.18, 0.34),
    ),
}  # fmt: skip
_LIGHTING_SHARES = {
    "daylight": 0.22, "warm": 0.16, "cool": 0.12, "studio": 0.2, "dramatic": 0.08, "golden": 0.09, "backlit": 0.07,
    "neon": 0.06,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Lighting:
    """Lighting of one shot: direction and colours."""

    name: str
    words: str
    key_direction: tuple[float, float, float]  # unit vector to the light
    key: tuple[float, float, float]
    fill: tuple[float, float, float]
    back: tuple[float, float, float]
    ambient: tuple[float, float, float]


def draw_lighting(rng: np.random.Generator, other_than: str = "") -> Lighting:
    """Draw a lighting, never the preset named `other_than`."""
    names = [n for n in LIGHTINGS if n != other_than]
    share = np.array([_LIGHTING_SHARES[n] for n in names])
    name = str(rng.choice(names, p=share / share.sum()))
    preset = LIGHTINGS[name]
    azimuth = np.radians(rng.uniform(*preset.azimuth)) * rng.choice([-1, 1])
    elevation = np.radians(rng.uniform(*preset.elevation))
    flat = float(np.cos(elevation))
    direction = (flat * float(np.sin(azimuth)), float(np.sin(elevation)), flat * float(np.cos(azimuth)))

    def jitter(colour: tuple[float, float, float]) -> tuple[float, float, float]:
        scaled = np.array(colour) * rng.uniform(0.88, 1.12) * (1 + rng.normal(size=3) * 0.02)
        return float(scaled[0]), float(scaled[1]), float(scaled[2])

    return Lighting(
        name=name, words=str(rng.choice(preset.words)), key_direction=direction,
        key=jitter(preset.key), fill=jitter(preset.fill), back=jitter(preset.back), ambient=jitter(preset.ambient),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Backdrop:
    """Picture behind the person, and its words."""

    kind: str
    words: str
    image: Tensor  # linear RGB [3, h, w] on the CPU, to be scaled to any size of the same aspect


def _colour(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    name = str(rng.choice(list(COLOURS)))
    return name, np.clip(np.array(COLOURS[name]) * rng.uniform(0.75, 1.25) + rng.normal(size=3) * 0.01, 0.005, 0.85)


class _Canvas:
    """Small picture with painted shapes, blurred at the end."""

    def __init__(self, height: int, width: int, colour: np.ndarray) -> None:
        self.pixels = np.tile(np.asarray(colour, np.float64), (height, width, 1))
        self.y, self.x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, width / height, width), indexing="ij")
        self.aspect = width / height

    def blend(self, colour: np.ndarray, amount: np.ndarray | float) -> None:
        amount = np.broadcast_to(amount, self.y.shape)[..., None]
        self.pixels = self.pixels * (1 - amount) + np.asarray(colour) * amount

    def box(self, low: tuple[float, float], high: tuple[float, float], colour: np.ndarray) -> None:
        inside = (self.x > low[0]) & (self.x < high[0]) & (self.y > low[1]) & (self.y < high[1])
        self.blend(colour, inside * 1.0)

    def disc(self, centre: tuple[float, float], radius: float, colour: np.ndarray, amount: float) -> None:
        distance = np.hypot(self.x - centre[0], self.y - centre[1])
        self.blend(colour, amount * np.clip((radius - distance) / 0.012 + 0.5, 0, 1))

    def tensor(self, blur: float) -> Tensor:
        """Blur by a Gaussian of `blur` times the height and convert to [3, h, w]."""
        image = torch.as_tensor(self.pixels, dtype=torch.float32).permute(2, 0, 1)[:, None]
        sigma = blur * self.y.shape[0]
        if sigma > 0.3:
            radius = int(3 * sigma) + 1
            kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * sigma**2))
            kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
            image = F.conv2d(F.pad(image, (radius, radius, 0, 0), mode="replicate"), kernel)
            image = F.conv2d(F.pad(image, (0, 0, radius, radius), mode="replicate"), kernel.transpose(2, 3))
        return image[:, 0]


def _plain(c: _Canvas, rng: np.random.Generator) -> tuple[str, float]:
    name, colour = _colour(rng)
    c.pixels[:] = colour
    c.blend(colour * 0.45, 0.7 * np.clip(np.hypot(c.x - c.aspect / 2, c.y - 0.45) - 0.25, 0, 1))
    return f"a plain {name} background", 0.0


def _gradient(c: _Canvas, rng: np.random.Generator) -> tuple[str, float]:
    (name, low), (other, high) = _colour(rng), _colour(rng)
    angle = rng.uniform(0, 2 * np.pi)
    t = 0.5 + (np.cos(angle) * (c.y - 0.5) + np.sin(angle) * (c.x - c.aspect / 2)) * rng.uniform(0.7, 1.1)
    c.pixels[:] = low
    c.blend(high, np.clip(t, 0, 1))
    return f"a gradient background from {name} to {other}", 0.0


def _mottled(c: _Canvas, rng: np.random.Generator) -> tuple[str, float]:
    (name, low), (_, high) = _colour(rng), _colour(rng)
    t = np.zeros_like(c.x)
    for _ in range(6):
        fx, fy, phase = rng.normal(scale=4), rng.normal(scale=4), rng.uniform(0, 6.28)
        t = t + np.sin(fx * c.x + fy * c.y + phase) * 0.18
    c.pixels[:] = low
    c.blend(low * 0.5 + high * 0.5, np.clip(0.5 + t, 0, 1))
    return f"a mottled {name} canvas background", 0.01


def _office(c: _Canvas, rng: np.random.Generator) -> tuple[str, float]:
    c.pixels[:] = np.array([0.42, 0.41, 0.40]) * rng.uniform(0.4, 1.1)
    edge = rng.uniform(0.0, 0.35) * c.aspect
    for k in range(int(rng.integers(1, 3))):
        left = edge + k * rng.uniform(0.45, 0.6) * c.aspect
        c.box(
            (left, rng.uniform(0.02, 0.1)), (left + 0.38 * c.aspect, rng.uniform(0.45, 0.6)), np.array([0.8, 0.86, 0.9])
        )
    for _ in range(int(rng.integers(3, 7))):
        x, y = rng.uniform(-0.1, c.aspect), rng.uniform(0.3, 0.8)
        c.box((x, y), (x + rng.uniform(0.06, 0.3), y + rng.uniform(0.08, 0.4)), _colour(rng)[1])
    return str(rng.choice(["a blurred office", "an office in soft focus", "a modern office background"])), 0.022


def _bokeh(c: _Canvas, rng: np.random.Generator) -> tuple[str, float]:
    c.pixels[:] = np.array([0.02, 0.025, 0.045]) * rng.uniform(0.6, 2.0)
    for _ in range(int(rng.integers(14, 30))):
        colour = np.array([[0.9, 0.6, 0.25], [0.9, 0.3, 0.15], [0.3, 0.5, 0.9], [0.8, 0.8, 0.7]][int(rng.integers(4))])
        centre = (rng.uniform(0, c.aspect), rng.uniform(0, 0.95))
        c.disc(centre, rng.uniform(0.015, 0.05), colour, rng.uniform(0.25, 0.8))
    return str(rng.choice(["city lights at night", "a night street with bokeh lights", "blurred city lights"])), 0.006


def _shelves(c: _Canvas, rng: np.random.Generator) -> tuple[str, float]:
    c.pixels[:] = np.array([0.10, 0.06, 0.035]) * rng.uniform(0.6, 1.5)
    rows = int(rng.integers(3, 6))
    for row in range(rows):
        x, top = 0.0, row / rows + 0.02
        while x < c.aspect:
            width = rng.uniform(0.015, 0.05)
            if rng.random() < 0.9:
                colour = _colour(rng)[1] * 0.6
                c.box((x, top + rng.uniform(0, 0.25) / rows), (x + width * 0.9, top + 0.85 / rows), colour)
            x += width
    return str(rng.choice(["a bookshelf", "a wall of books", "bookshelves in the background"])), 0.012


def _outdoors(c: _Canvas, rng: np.random.Generator) -> tuple[str, float]:
    horizon = rng.uniform(0.35, 0.65)
    c.pixels[:] = np.array([0.10, 0.17, 0.06]) * rng.uniform(0.5, 1.4)
    c.blend(np.array([0.38, 0.55, 0.80]), np.clip((horizon - c.y) / 0.08, 0, 1))
    c.blend(np.array([0.75, 0.8, 0.85]), 0.6 * np.clip(1 - np.abs(c.y - horizon) / 0.25, 0, 1) * (c.y < horizon))
    for _ in range(int(rng.integers(8, 18))):
        centre = (rng.uniform(0, c.aspect), horizon + rng.uniform(-0.15, 0.25))
        green = np.array([0.06, 0.13, 0.04]) * rng.uniform(0.5, 2.0)
        c.disc(centre, rng.uniform(0.05, 0.14), green, 0.8)
    return str(
        rng.choice(["a green park", "trees and sky", "a garden outdoors", "an outdoor park in soft focus"])
    ), 0.025


def _curtain(c: _Canvas, rng: np.random.Generator) -> tuple[str, float]:
    name, colour = _colour(rng)
    wave = np.sin(c.x * rng.uniform(30, 60) + 2 * np.sin(c.x * rng.uniform(5, 11)) + rng.uniform(0, 6))
    c.pixels[:] = colour
    c.blend(colour * 0.35, np.clip(0.4 - 0.4 * wave, 0, 1))
    return f"a {name} curtain", 0.006


# kind -> (painter, share)
BACKDROPS = {
    "plain": (_plain, 0.2), "gradient": (_gradient, 0.2), "mottled": (_mottled, 0.1), "office": (_office, 0.16),
    "bokeh": (_bokeh, 0.08), "shelves": (_shelves, 0.09), "outdoors": (_outdoors, 0.1), "curtain": (_curtain, 0.07),
}  # fmt: skip


def draw_backdrop(rng: np.random.Generator, height: int, width: int, other_than: str = "") -> Backdrop:
    """Draw a backdrop for a picture of the aspect height : width, never of the kind `other_than`."""
    kinds = [k for k in BACKDROPS if k != other_than]
    share = np.array([BACKDROPS[k][1] for k in kinds])
    kind = str(rng.choice(kinds, p=share / share.sum()))
    rows = 192
    canvas = _Canvas(rows, max(8, round(rows * width / height)), np.zeros(3))
    words, blur = BACKDROPS[kind][0](canvas, rng)
    return Backdrop(kind=kind, words=words, image=canvas.tensor(blur).clamp(0, 1.2))
