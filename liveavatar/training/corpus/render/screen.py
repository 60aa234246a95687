"""Screen-space steps of the renderer: ambient occlusion, subsurface blur of skin, backdrop and tone mapping.

Shapes: B frames, P fragments, H/W picture, M = B * H * W pixels, h/w supersampled picture.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.training.corpus.head.geometry import PIXELS_PER_CM, Camera, Material, dot
from liveavatar.training.corpus.render.fuse import fused
from liveavatar.training.corpus.render.scene import PixelMap, Scene, Shot, place_of
from liveavatar.training.corpus.render.surface import Fragments

_OCCLUSION_TAPS = 14
_SCATTER_CM = (0.29, 0.13, 0.09)  # spread of skin irradiance in red, green, blue


def _pixels_per_cm(camera: Camera) -> float:
    return PIXELS_PER_CM * camera.zoom * camera.height


def occlusion(f: Fragments, normal: Tensor, pixels: PixelMap, camera: Camera) -> Tensor:
    """Compute screen-space ambient occlusion [M, 1] of normals [P, 3] at output resolution: 1 open, 0 occluded."""
    offsets = []
    for k in range(_OCCLUSION_TAPS):
        radius = (0.6 + 3.4 * ((k + 0.5) / _OCCLUSION_TAPS) ** 1.2) * _pixels_per_cm(camera)
        angle = k * 2.39996  # the golden angle
        offsets.append([round(radius * math.sin(angle)), round(radius * math.cos(angle))])
    steps = torch.tensor(offsets, dtype=torch.int32, device=normal.device)
    sides = (pixels.sides, pixels.scale)
    place, facing = _first_samples(f.position, normal, pixels.slot, pixels.low, sides)
    open_share = pixels.pictures(_openness(place, facing, pixels.low, steps, sides))
    open_share = F.avg_pool2d(F.pad(open_share, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return open_share.reshape(-1, 1)


@fused
def _first_samples(
    position: Tensor, normal: Tensor, slot: Tensor, low: Tensor, grid: tuple[Tensor, int]
) -> tuple[Tensor, Tensor]:
    """Gather position and normal [M, 3] of the first sample of each pixel; far behind where there is none."""
    sides, scale = grid
    frame, row, column = place_of(low, sides[0] // scale, sides[1] // scale)
    i = slot[(frame * sides[0] + row * scale) * sides[1] + column * scale]
    there = (i >= 0)[:, None]
    i = i.clamp(min=0)
    return torch.where(there, position[i], position.new_tensor([0, 0, -500.0])), torch.where(there, normal[i], 0.0)


@fused
def _openness(place: Tensor, facing: Tensor, low: Tensor, steps: Tensor, grid: tuple[Tensor, int]) -> Tensor:
    sides, scale = grid
    height, width = sides[0] // scale, sides[1] // scale
    frame, row, column = place_of(low, height, width)
    total = torch.zeros_like(place[:, :1])
    for k in range(_OCCLUSION_TAPS):
        y, x = (row - steps[k, 0]) % height, (column - steps[k, 1]) % width
        to = place[(frame * height + y) * width + x] - place
        distance = dot(to, to).sqrt() + 1e-5
        total = total + (dot(to, facing) / distance - 0.1).clamp(0, 1) * (1 - distance / 6.5).clamp(0, 1)
    return (1 - total / _OCCLUSION_TAPS * 3.0).clamp(0.05, 1)


def skin_blur(irradiance: Tensor, f: Fragments, pixels: PixelMap, camera: Camera) -> Tensor:
    """Blur irradiance [P, 3] over neighbouring skin, wider in red than in green and blue: [M, 3]."""
    flat = pixels.pictures(_skin_picture(irradiance, f.material, pixels.slot, pixels.low, (pixels.sides, pixels.scale)))
    channels = []
    for channel, spread in enumerate(_SCATTER_CM):
        sigma = spread * _pixels_per_cm(camera)
        radius = max(2, min(12, math.ceil(2.5 * sigma)))
        x = torch.arange(-radius, radius + 1, device=flat.device, dtype=torch.float32)
        kernel = torch.exp(-(x**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
        z = flat[:, [channel, 3]].flatten(0, 1)[:, None]
        z = F.conv2d(F.conv2d(z, kernel, padding=(0, radius)), kernel.transpose(2, 3), padding=(radius, 0))
        z = z.reshape(-1, 2, *z.shape[2:])
        channels.append((z[:, 0] / z[:, 1].clamp(min=1e-3)).reshape(-1))
    return torch.stack(channels, 1)


@fused
def _skin_picture(irradiance: Tensor, material: Tensor, slot: Tensor, low: Tensor, grid: tuple[Tensor, int]) -> Tensor:
    """Average the irradiance of skin, and its share of each pixel: [M, 4]."""
    sides, scale = grid
    frame, row, column = place_of(low, sides[0] // scale, sides[1] // scale)
    light, share = torch.zeros_like(low, dtype=torch.float32)[:, None].expand(-1, 3), torch.zeros_like(low)
    for sample in range(scale * scale):
        y, x = row * scale + sample // scale, column * scale + sample % scale
        i = slot[(frame * sides[0] + y) * sides[1] + x]
        skin = (i >= 0) & (material[i.clamp(min=0)] == Material.SKIN.value)
        light = light + torch.where(skin[:, None], irradiance[i.clamp(min=0)], 0.0)
        share = share + skin
    return torch.cat([light, share[:, None].float()], 1) / (scale * scale)


def backdrops(shots: list[Shot], pixels: PixelMap) -> Tensor:
    """Scale the backdrops to linear RGB [shots * h * w, 3], slightly tinted by the light."""
    device = pixels.slot.device
    pictures = []
    for shot in shots:
        image = shot.backdrop.image.to(device)[None]
        image = F.interpolate(image, (pixels.height, pixels.width), mode="bicubic", align_corners=False)[0].clamp(min=0)
        light = shot.lighting
        tint = torch.tensor(light.ambient, device=device) + 0.3 * torch.tensor(light.fill, device=device)
        tint = 0.5 + 0.5 * tint / tint.mean()
        exposure = 0.55 + 0.45 * min(1.0, float(sum(shot.lighting.ambient)) / 1.3)
        pictures.append((image * tint[:, None, None] * exposure).permute(1, 2, 0).reshape(-1, 3))
    return torch.cat(pictures)


def develop(colour: Tensor, behind: Tensor, scene: Scene, pixels: PixelMap) -> Tensor:
    """Compose fragments [P, 3] over backdrops [shots * h * w, 3], both linear RGB, to pictures uint8 [B, H, W, 3]."""
    flat = _develop(colour, behind, scene.shot, pixels.slot, pixels.low, (pixels.sides, pixels.scale))
    return flat.reshape(pixels.frames, pixels.height // pixels.scale, pixels.width // pixels.scale, 3)


@fused
def _develop(
    colour: Tensor, behind: Tensor, shot: Tensor, slot: Tensor, low: Tensor, grid: tuple[Tensor, int]
) -> Tensor:
    """Apply the filmic curve (Narkowicz' fit of ACES) and gamma 2.2, average the samples, quantise to eight bits."""
    sides, scale = grid
    frame, row, column = place_of(low, sides[0] // scale, sides[1] // scale)
    base = shot[frame].int() * sides[0]
    total = torch.zeros_like(low, dtype=torch.float32)[:, None].expand(-1, 3)
    for sample in range(scale * scale):
        y, x = row * scale + sample // scale, column * scale + sample % scale
        i = slot[(frame * sides[0] + y) * sides[1] + x]
        light = torch.where((i >= 0)[:, None], colour[i.clamp(min=0)], behind[(base + y) * sides[1] + x])
        v = light.clamp(min=0) * 1.05
        total = total + ((v * (2.51 * v + 0.03)) / (v * (2.43 * v + 0.59) + 0.14)).clamp(0, 1) ** (1 / 2.2)
    return (total / (scale * scale) * 255 + 0.5).clamp(0, 255).to(torch.uint8)
