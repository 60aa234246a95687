"""Render posed avatars to pictures: visibility, light, shadow, occlusion, skin blur, tone curve.

Deferred shading in torch: `raster.py` finds the triangle of each pixel, `surface.py` paints it, and this file
lights it: wrapped diffuse, GGX, strand highlights after Kajiya-Kay, one shadow map, screen-space occlusion, and
a screen-space blur of skin irradiance (wider in red) for subsurface scattering. Several shots share a batch.

Shapes: B frames, V vertices, P fragments, H/W picture, h/w supersampled picture.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from liveavatar.training.corpus.head.geometry import Attr, Camera, HeadAssets, Material, dot, normalise
from liveavatar.training.corpus.render.fuse import fused
from liveavatar.training.corpus.render.raster import AlphaTest, depth_of, rasterise
from liveavatar.training.corpus.render.scene import PixelMap, Scene, Shot, enlarged, fragments, join, rows_of
from liveavatar.training.corpus.render.screen import backdrops, develop, occlusion, skin_blur
from liveavatar.training.corpus.render.surface import (
    Fragments,
    Surface,
    cloth_exists,
    hair_exists,
    lash_exists,
    paint,
    strand_direction,
)

_SHADOW_SIZE = 384  # pixels
_SHADOW_SPAN = 44.0  # cm that the shadow map covers
_SHADOW_DEPTH = 110.0  # cm from the light's plane to the origin
_SHADOW_TAPS = (
    (-1.6, -0.6), (0.6, -1.6), (1.6, 0.6), (-0.6, 1.6), (0.0, 0.0), (-2.6, 1.9), (2.6, -1.9), (1.9, 2.6), (-1.9, -2.6),
)  # fmt: skip


@dataclass
class ShadowMap:
    """Depth map from the key light."""

    nearest: Tensor  # [B * size * size] depth nearest to the light, cm
    axes: tuple[Tensor, Tensor, Tensor]  # [B, 3] each: to the right, up, and towards the light


@torch.no_grad()
def render(shots: list[Shot], camera: Camera, supersample: int = 2) -> Tensor:
    """Render shots in one batch.

    Args:
        shots: avatars on one device.
        camera: size and framing of all of them.
        supersample: samples per pixel along each side.

    Returns:
        uint8 [B, H, W, 3] with the frames of all shots in order.
    """
    scene = join(shots)
    assets = shots[0].avatar.assets
    screen = camera.project(scene.points, supersample)

    alpha = _alpha_tests(scene, assets)
    frames = len(scene.rotation)
    size = (frames, camera.height * supersample, camera.width * supersample)
    keys = rasterise(screen, scene.triangles, scene.frame, size, alpha, scene.material, scene.material < Material.LASH)
    pixels = PixelMap(keys, frames, camera, supersample)
    del keys
    visible = fragments(scene, screen, pixels, shots)
    surface = paint(assets, visible)
    lights = _lights(shots, scene)
    shadow = _shadow_map(scene, alpha, lights["direction"])
    open_share = occlusion(visible, surface.normal, pixels, camera)
    grid = (pixels.pixel, pixels.sides, pixels.scale)
    irradiance, specular = _light(visible, surface, lights, shadow, open_share, grid)
    blurred = skin_blur(irradiance, visible, pixels, camera)
    colour = _reflected(irradiance, specular, blurred, surface.albedo, visible.material, grid)
    return develop(colour, backdrops(shots, pixels), scene, pixels)


def _alpha_tests(scene: Scene, assets: HeadAssets) -> dict[int, AlphaTest]:
    """Build the alpha tests of the materials with holes: cloth, hair and lashes."""

    def cloth(triangle: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        return _cloth_visible(scene, triangle, w1, w2)

    def hair(triangle: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        return _hair_visible(assets, scene, triangle, w1, w2)

    def lash(triangle: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        return lash_exists(scene.attribute(triangle, w1, w2, slice(0, Attr.LASH_ROW + 1)))

    return {Material.CLOTH: cloth, Material.HAIR: hair, Material.LASH: lash}


@fused
def _cloth_visible(scene: Scene, triangle: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    collar = scene.parameters["collar"][scene.shot[scene.frame[triangle]]]
    return cloth_exists(scene.attribute(triangle, w1, w2, Attr.REST), collar)


@fused
def _hair_visible(assets: HeadAssets, scene: Scene, triangle: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    return hair_exists(assets, scene.attribute(triangle, w1, w2, slice(0, Attr.MODE + 1)), scene.curls)


def _lights(shots: list[Shot], scene: Scene) -> dict[str, Tensor]:
    """Collect the key direction per frame [B, 3] and the light colours per shot [shots, 3]."""
    device = scene.points.device
    names = ("key", "fill", "back", "ambient")
    rows = {n: torch.tensor([getattr(s.lighting, n) for s in rows_of(shots)], device=device) for n in names}
    direction = torch.tensor([s.lighting.key_direction for s in shots], device=device)[scene.shot]
    return {"direction": direction, **rows}


def _from_light(points: Tensor, frame: Tensor, axes: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Project points [P, 3] into the light's view: x and y in pixels of the shadow map, depth in cm.

    `axes` [B, 3] each: to the right, up, and towards the light.
    """
    x, y, z = (dot(points, axis[frame])[:, 0] for axis in axes)
    size = _SHADOW_SIZE
    return torch.stack(
        [x / _SHADOW_SPAN * size + size / 2, size / 2 - (y + 1) / _SHADOW_SPAN * size, _SHADOW_DEPTH - z], 1
    )


def _shadow_map(scene: Scene, alpha: Mapping[int, AlphaTest], direction: Tensor) -> ShadowMap:
    """Rasterise the scene from light directions [B, 3]."""
    right = normalise(torch.cross(direction.new_tensor([0, 1.0, 0]).expand_as(direction), direction, dim=1))
    axes = (right, torch.cross(direction, right, dim=1), direction)
    points = _from_light(scene.points, scene.point_frame, axes)
    size = (len(direction), _SHADOW_SIZE, _SHADOW_SIZE)
    keys = rasterise(points, scene.triangles, scene.frame, size, alpha, scene.material)
    return ShadowMap(depth_of(keys, 999.0), axes)


def _reach(f: Fragments, shadow: ShadowMap) -> Tensor:
    """Compute each fragment's unshadowed share of the key light [P, 1]: 9 taps into the depth map."""
    size = _SHADOW_SIZE
    nearest = shadow.nearest
    at = _from_light(f.position + f.normal * 0.12, f.frame, shadow.axes)
    blocked = torch.zeros_like(at[:, 0])
    for dx, dy in _SHADOW_TAPS:
        x = (at[:, 0] + dx).int().clamp(0, size - 1)
        y = (at[:, 1] + dy).int().clamp(0, size - 1)
        blocked = blocked + ((at[:, 2] - nearest[(f.frame * size + y) * size + x] - 0.25) / 0.35).clamp(0, 1)
    inside = ((at[:, :2] - size / 2).abs().amax(1) < size / 2 - 3).float()
    return (1 - blocked / len(_SHADOW_TAPS) * inside)[:, None]


def _ggx(n: Tensor, view: Tensor, light: Tensor, roughness: Tensor, f0: Tensor) -> Tensor:
    half = normalise(light + view)
    nh, nv = dot(n, half).clamp(0, 1), dot(n, view).clamp(0.05, 1)
    nl = dot(n, light).clamp(0, 1)
    fresnel = f0 + (1 - f0) * (1 - dot(view, half).clamp(0, 1)) ** 5
    alpha2 = roughness**4
    k = (roughness + 1) ** 2 / 8
    density = alpha2 / (math.pi * (nh * nh * (alpha2 - 1) + 1) ** 2)
    return density * fresnel / 4 / ((nl * (1 - k) + k) * (nv * (1 - k) + k)) * nl


@fused
def _light(
    f: Fragments,
    s: Surface,
    lights: dict[str, Tensor],
    shadow: ShadowMap,
    open_share: Tensor,
    grid: tuple[Tensor, Tensor, int],
) -> tuple[Tensor, Tensor]:
    """Compute irradiance and specular light [P, 3] of every fragment."""
    skin, hair, eye, cloth, lash = (
        f.is_(m) for m in (Material.SKIN, Material.HAIR, Material.EYE, Material.CLOTH, Material.LASH)
    )
    occlusion = enlarged(open_share, *grid)
    occlusion = torch.where(eye, 0.3 + 0.7 * occlusion, occlusion) * s.cavity
    n, position = s.normal, f.position
    key = lights["direction"][f.frame]
    side = normalise(key * position.new_tensor([-1.2, 0.25, 0.7]))
    back = normalise(key * position.new_tensor([-0.6, 0.8, 0]) + position.new_tensor([0, 0, -0.8]))
    wrap = torch.where(skin, position.new_tensor([0.30, 0.14, 0.09]), position.new_tensor([0.05, 0.05, 0.05]))
    f0 = torch.where(cloth, 0.015, 0.032)
    tangent = strand_direction(f, s)
    hair_colour, curl = f.of("hair"), torch.where(f.curly, 0.25, 1.0)
    key_colour, fill, rim, ambient = (lights[k][f.avatar] for k in ("key", "fill", "back", "ambient"))
    irradiance, specular = torch.zeros_like(position), torch.zeros_like(position)
    for light, colour in ((key, key_colour * _reach(f, shadow)), (side, fill), (back, rim)):
        nl = dot(n, light)
        wrapped = ((nl + wrap) / (1 + wrap)).clamp(0, 1)
        along = dot(tangent, light)
        strand = (1 - along * along).clamp(0, 1).sqrt() * (0.30 + 0.70 * nl).clamp(0, 1) * 0.62
        irradiance = irradiance + torch.where(hair, strand, wrapped) * colour
        across = dot(tangent, normalise(light + f.view))
        glint = (1 - across * across).clamp(0, 1).sqrt()
        shine = (glint**80) * 0.022 + (glint**22) * 0.6 * hair_colour
        shine = curl * shine * (1 + 0.5 * s.strand[:, :1]).clamp(0, 2)
        shine = shine * (nl * 0.8 + 0.25).clamp(0, 1)
        gloss = _ggx(n, f.view, light, s.roughness, f0) * ~lash
        specular = specular + torch.where(hair, shine, gloss) * colour
    ambient = ambient * (0.55 + 0.6 * (0.5 + 0.5 * n[:, 1:2]))
    irradiance = irradiance * (0.4 + 0.6 * occlusion) * s.cavity + ambient * occlusion * torch.where(hair, 0.8, 1.0)
    specular = specular * occlusion**1.2 * s.cavity**2 * s.dry
    specular = specular + ambient * 0.022 * occlusion * torch.where(skin | eye, 1.0, 0.3)
    # A window-shaped catch-light: the cornea mirrors the key light.
    mirrored = 2 * dot(n, f.view) * n - f.view
    catch = ((dot(mirrored, key) - 0.955) / 0.02).clamp(0, 1) * eye
    return irradiance, specular + 0.35 * catch * key_colour * occlusion


@fused
def _reflected(
    irradiance: Tensor,
    specular: Tensor,
    blurred: Tensor,
    albedo: Tensor,
    material: Tensor,
    grid: tuple[Tensor, Tensor, int],
) -> Tensor:
    """Combine light and albedo to linear RGB [P, 3]; skin takes most of its light from `blurred` [M, 3]."""
    skin = (material == Material.SKIN.value)[:, None]
    irradiance = torch.where(skin, torch.lerp(irradiance, enlarged(blurred, *grid), 0.65), irradiance)
    return irradiance * albedo / math.pi * 1.15 + specular
