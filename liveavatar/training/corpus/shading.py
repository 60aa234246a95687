"""From posed avatars to pictures: visibility, light, shadow, occlusion, skin blur, tone curve.

Deferred shading in torch: `raster.py` finds the triangle of each pixel, `surface.py` paints it, and this file
lights it: wrapped diffuse, GGX, strand highlights after Kajiya-Kay, one shadow map, screen-space occlusion, and
a screen-space blur of skin irradiance (wider in red) for subsurface scattering. Several shots share a batch.

Shapes: B frames, V vertices, P fragments, H/W picture, h/w supersampled picture.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.training.corpus.geometry import (
    PIXELS_PER_CM,
    Attr,
    Camera,
    HeadAssets,
    Material,
    dot,
    normalise,
)
from liveavatar.training.corpus.raster import AlphaTest, depth_of, rasterise
from liveavatar.training.corpus.scene import PixelMap, Scene, Shot, fragments, join
from liveavatar.training.corpus.surface import (
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
_OCCLUSION_TAPS = 14
_SCATTER_CM = (0.29, 0.13, 0.09)  # spread of skin irradiance in red, green, blue


@torch.no_grad()
def render(shots: list[Shot], camera: Camera, supersample: int = 2) -> Tensor:
    """Draw shots one after the other.

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
    visible = fragments(scene, screen, pixels, shots)
    surface = paint(assets, visible)
    lights = _lights(shots, scene, visible)
    shadow = _shadow(scene, alpha, visible, lights["direction"])
    occlusion = _occlusion(visible, surface, pixels, camera)
    colour = _shade(visible, surface, lights, shadow, occlusion, (pixels, camera))
    image = _backdrop(shots, scene, pixels).reshape(-1, 3).index_copy(0, pixels.pixel, colour)
    return _develop(image, pixels)


def _alpha_tests(scene: Scene, assets: HeadAssets) -> dict[int, AlphaTest]:
    """Which samples exist of the materials that are not whole."""

    def cloth(triangle: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        collar = scene.parameters["collar"][scene.shot[scene.frame[triangle]]]
        return cloth_exists(scene.attribute(triangle, w1, w2, Attr.REST), collar)

    def hair(triangle: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        return hair_exists(assets, scene.attribute(triangle, w1, w2, slice(0, Attr.MODE + 1)))

    def lash(triangle: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
        return lash_exists(scene.attribute(triangle, w1, w2, slice(0, Attr.LASH_ROW + 1)))

    return {Material.CLOTH: cloth, Material.HAIR: hair, Material.LASH: lash}


def _lights(shots: list[Shot], scene: Scene, f: Fragments) -> dict[str, Tensor]:
    """Key direction per frame [B, 3] and light colours per fragment [P, 3]."""
    device = f.position.device
    names = ("key", "fill", "back", "ambient")
    rows = {n: torch.tensor([getattr(s.lighting, n) for s in shots], device=device) for n in names}
    direction = torch.tensor([s.lighting.key_direction for s in shots], device=device)[scene.shot]
    return {"direction": direction, **{n: rows[n][f.avatar] for n in names}}


def _shadow(scene: Scene, alpha: Mapping[int, AlphaTest], f: Fragments, direction: Tensor) -> Tensor:
    """Share of the key light [P, 1] that reaches each fragment: 9 taps into a depth map seen from the light."""
    size = _SHADOW_SIZE
    right = normalise(torch.cross(direction.new_tensor([0, 1.0, 0]).expand_as(direction), direction, dim=1))
    up = torch.cross(direction, right, dim=1)

    def project(points: Tensor, frame: Tensor) -> Tensor:
        x = (points * right[frame]).sum(1) / _SHADOW_SPAN * size + size / 2
        y = size / 2 - ((points * up[frame]).sum(1) + 1) / _SHADOW_SPAN * size
        return torch.stack([x, y, _SHADOW_DEPTH - (points * direction[frame]).sum(1)], 1)

    keys = rasterise(
        project(scene.points, scene.point_frame),
        scene.triangles,
        scene.frame,
        (len(direction), size, size),
        alpha,
        scene.material,
    )
    nearest = depth_of(keys, 999.0)
    at = project(f.position + f.normal * 0.12, f.frame)
    blocked = torch.zeros(len(at), device=at.device)
    for dx, dy in _SHADOW_TAPS:
        x = (at[:, 0] + dx).long().clamp(0, size - 1)
        y = (at[:, 1] + dy).long().clamp(0, size - 1)
        blocked += ((at[:, 2] - nearest[(f.frame * size + y) * size + x] - 0.25) / 0.35).clamp(0, 1)
    inside = ((at[:, :2] - size / 2).abs().amax(1) < size / 2 - 3).float()
    return (1 - blocked / len(_SHADOW_TAPS) * inside)[:, None]


def _pixels_per_cm(camera: Camera) -> float:
    return PIXELS_PER_CM * camera.zoom * camera.height


def _occlusion(f: Fragments, surface: Surface, pixels: PixelMap, camera: Camera) -> Tensor:
    """Screen-space ambient occlusion [P, 1] at output resolution: 1 is open, 0 is closed in."""
    step = pixels.scale
    place = pixels.picture(f.position)
    place[..., 2].masked_fill_(~pixels.covered.reshape(place.shape[:3]), -500.0)
    place, normal = place[:, ::step, ::step], pixels.picture(surface.normal)[:, ::step, ::step]
    total = torch.zeros_like(place[..., :1])
    for k in range(_OCCLUSION_TAPS):
        radius = (0.6 + 3.4 * ((k + 0.5) / _OCCLUSION_TAPS) ** 1.2) * _pixels_per_cm(camera)
        angle = k * 2.39996  # the golden angle
        offset = (round(radius * math.sin(angle)), round(radius * math.cos(angle)))
        to = torch.roll(place, offset, (1, 2)) - place
        distance = to.norm(dim=-1, keepdim=True) + 1e-5
        total += (dot(to, normal) / distance - 0.1).clamp(0, 1) * (1 - distance / 6.5).clamp(0, 1)
    open_share = (1 - total / _OCCLUSION_TAPS * 3.0).clamp(0.05, 1).permute(0, 3, 1, 2)
    open_share = F.avg_pool2d(F.pad(open_share, (1, 1, 1, 1), mode="replicate"), 3, 1)
    value = pixels.gather(open_share)
    return torch.where(f.is_(Material.EYE), 0.3 + 0.7 * value, value) * surface.cavity


def _ggx(n: Tensor, view: Tensor, light: Tensor, roughness: Tensor, f0: Tensor) -> Tensor:
    half = normalise(light + view)
    nh, nv = dot(n, half).clamp(0, 1), dot(n, view).clamp(0.05, 1)
    nl = dot(n, light).clamp(0, 1)
    fresnel = f0 + (1 - f0) * (1 - dot(view, half).clamp(0, 1)) ** 5
    alpha2 = roughness**4
    k = (roughness + 1) ** 2 / 8
    density = alpha2 / (math.pi * (nh * nh * (alpha2 - 1) + 1) ** 2)
    return density * fresnel / 4 / ((nl * (1 - k) + k) * (nv * (1 - k) + k)) * nl


def _shade(
    f: Fragments,
    s: Surface,
    lights: dict[str, Tensor],
    shadow: Tensor,
    occlusion: Tensor,
    target: tuple[PixelMap, Camera],
) -> Tensor:
    """Linear RGB [P, 3] of every fragment."""
    skin, hair, eye, cloth, lash = (
        f.is_(m) for m in (Material.SKIN, Material.HAIR, Material.EYE, Material.CLOTH, Material.LASH)
    )
    n, position = s.normal, f.position
    key = lights["direction"][f.frame]
    side = normalise(key * position.new_tensor([-1.2, 0.25, 0.7]))
    back = normalise(key * position.new_tensor([-0.6, 0.8, 0]) + position.new_tensor([0, 0, -0.8]))
    wrap = torch.where(skin, position.new_tensor([0.30, 0.14, 0.09]), position.new_tensor([0.05, 0.05, 0.05]))
    f0 = torch.where(cloth, 0.015, 0.032)
    tangent = strand_direction(f, s)
    irradiance, specular = torch.zeros_like(position), torch.zeros_like(position)
    for light, colour, reach in (
        (key, lights["key"], shadow),
        (side, lights["fill"], 1.0),
        (back, lights["back"], 1.0),
    ):
        nl = dot(n, light)
        wrapped = ((nl + wrap) / (1 + wrap)).clamp(0, 1)
        along = dot(tangent, light)
        strand = (1 - along * along).clamp(0, 1).sqrt() * (0.30 + 0.70 * nl).clamp(0, 1) * 0.62
        irradiance += torch.where(hair, strand.expand(-1, 3), wrapped) * colour * reach
        across = dot(tangent, normalise(light + f.view))
        glint = (1 - across * across).clamp(0, 1).sqrt()
        shine = (glint**80) * 0.022 + (glint**22) * 0.6 * f.parameters["hair"]
        shine = torch.where(s.curly, 0.25, 1.0) * shine * (1 + 0.5 * s.strand[:, :1]).clamp(0, 2)
        shine = shine * (nl * 0.8 + 0.25).clamp(0, 1)
        gloss = _ggx(n, f.view, light, s.roughness, f0) * ~lash
        specular += torch.where(hair, shine, gloss) * colour * reach
    ambient = lights["ambient"] * (0.55 + 0.6 * (0.5 + 0.5 * n[:, 1:2]))
    irradiance = irradiance * (0.4 + 0.6 * occlusion) * s.cavity + ambient * occlusion * torch.where(hair, 0.8, 1.0)
    specular = specular * occlusion**1.2 * s.cavity**2 * s.dry
    specular = specular + ambient * 0.022 * occlusion * torch.where(skin | eye, 1.0, 0.3)
    # A window-shaped catch-light: the cornea mirrors the key light.
    mirrored = 2 * dot(n, f.view) * n - f.view
    catch = ((dot(mirrored, key) - 0.955) / 0.02).clamp(0, 1) * eye
    specular = specular + 0.35 * catch * lights["key"] * occlusion
    irradiance = torch.where(skin, torch.lerp(irradiance, _skin_blur(irradiance, skin, *target), 0.65), irradiance)
    return irradiance * s.albedo / math.pi * 1.15 + specular


def _skin_blur(irradiance: Tensor, skin: Tensor, pixels: PixelMap, camera: Camera) -> Tensor:
    """Irradiance [P, 3] spread over neighbouring skin, wider in red than in green and blue."""
    flat = pixels.picture(torch.cat([irradiance * skin, skin.float()], 1)).permute(0, 3, 1, 2)
    flat = F.avg_pool2d(flat, pixels.scale)
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
        channels.append(z[:, :1] / z[:, 1:].clamp(min=1e-3))
    return pixels.gather(torch.cat(channels, 1))


def _backdrop(shots: list[Shot], scene: Scene, pixels: PixelMap) -> Tensor:
    """Linear RGB [B, h, w, 3] behind the avatars, slightly tinted by the light."""
    device = scene.points.device
    pictures = []
    for shot in shots:
        image = shot.backdrop.image.to(device)[None]
        image = F.interpolate(image, (pixels.height, pixels.width), mode="bicubic", align_corners=False)[0].clamp(min=0)
        light = shot.lighting
        tint = torch.tensor(light.ambient, device=device) + 0.3 * torch.tensor(light.fill, device=device)
        tint = 0.5 + 0.5 * tint / tint.mean()
        exposure = 0.55 + 0.45 * min(1.0, float(sum(shot.lighting.ambient)) / 1.3)
        pictures.append((image * tint[:, None, None] * exposure).permute(1, 2, 0))
    return torch.stack(pictures)[scene.shot]


def _develop(image: Tensor, pixels: PixelMap) -> Tensor:
    """Filmic curve (Narkowicz' fit of ACES), gamma 2.2, average of the samples, eight bits."""
    x = image.clamp(min=0) * 1.05
    x = ((x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)).clamp(0, 1) ** (1 / 2.2)
    x = x.reshape(pixels.frames, pixels.height, pixels.width, 3).permute(0, 3, 1, 2)
    x = F.avg_pool2d(x, pixels.scale).permute(0, 2, 3, 1)
    return (x * 255 + 0.5).clamp(0, 255).byte()
