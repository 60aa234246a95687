"""Render a still of a person of the corpus, such as `data/samples/portrait.png`.

`python -m liveavatar.training.corpus.portrait --assets DIR --seed 800000048 --lighting studio --backdrop shelves
--out portrait.png`. Seeds from 800 000 000 on are in neither the training nor the held-out split.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from liveavatar.training.corpus.clips import SAMPLE_SEED
from liveavatar.training.corpus.head.avatar import Avatar
from liveavatar.training.corpus.head.geometry import HeadAssets
from liveavatar.training.corpus.render.framing import eye_centres, framing
from liveavatar.training.corpus.render.look import BACKDROPS, LIGHTINGS, draw_backdrop, draw_lighting
from liveavatar.training.corpus.render.scene import Shot
from liveavatar.training.corpus.render.shading import render

_HEAD = (0.05, 0.0, 0.01)  # yaw, pitch, roll, radians
_GAZE = (-0.04, 0.0)  # back at the camera


def portrait(assets: HeadAssets, seed: int, lighting: str, backdrop: str, size: tuple[int, int]) -> np.ndarray:
    """Render a person at rest.

    Args:
        assets: head assets.
        seed: the person.
        lighting: one of `look.LIGHTINGS`.
        backdrop: a kind of backdrop, e.g. "office".
        size: height and width in pixels.

    Returns:
        uint8 [H, W, 3].
    """
    rng = np.random.default_rng(seed)
    height, width = size
    light, place = draw_lighting(rng), draw_backdrop(rng, height, width)
    while light.name != lighting:
        light = draw_lighting(rng)
    while place.kind != backdrop:
        place = draw_backdrop(rng, height, width)
    avatar = Avatar(assets, seed)
    rest = torch.zeros(1, len(assets.expression_names), device=assets.device)
    posed = avatar.pose(rest, torch.tensor([_HEAD], device=assets.device), torch.tensor([_GAZE], device=assets.device))
    camera = framing(eye_centres(assets, posed[0][0]), height, width)
    return render([Shot(avatar, *posed, light, place)], camera)[0].cpu().numpy()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SAMPLE_SEED + 48)
    parser.add_argument("--lighting", choices=tuple(LIGHTINGS), default="studio")
    parser.add_argument("--backdrop", default="shelves", choices=tuple(BACKDROPS))
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    image = portrait(HeadAssets(args.assets), args.seed, args.lighting, args.backdrop, (args.height, args.width))
    Image.fromarray(image).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
