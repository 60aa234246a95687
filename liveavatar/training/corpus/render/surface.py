"""Procedural materials of visible points: albedo, roughness and bumps.

Works on *fragments*: the visible points of all frames of a batch, one row each. Skin, brows, lips, eyes, teeth,
hair and cloth are painted procedurally from rest positions, so the paint moves with the face.

Shapes: P fragments.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from liveavatar.training.corpus.head.avatar import BROW_SPAN_X, BROW_SPAN_Y, BROW_X, BROW_Y, collar_height
from liveavatar.training.corpus.head.geometry import (
    CURLY,
    EYE_CENTRES,
    Attr,
    HeadAssets,
    Material,
    dot,
    normalise,
    rotate,
    smoothstep,
)
from liveavatar.training.corpus.render.fuse import fused


@dataclass
class Fragments:
    """Visible points of the rasterised scene."""

    frame: Tensor  # [P] frame
    material: Tensor  # [P]
    attributes: Tensor  # [P, Attr.WIDTH]
    position: Tensor  # [P, 3] cm
    normal: Tensor  # [P, 3], flipped towards the camera where the surface is two-sided
    view: Tensor  # [P, 3] unit vector to the camera
    parameters: dict[str, Tensor]  # of the avatars, one row each
    brow_textures: Tensor  # [avatars, 160, 256]
    avatar: Tensor  # [P] row of brow_textures and parameters
    rotation: Tensor  # [B, 3, 3] of the head
    curls: bool  # whether an avatar has curly hair

    def is_(self, material: Material) -> Tensor:
        """Compute the mask [P, 1] of a material."""
        return (self.material == material.value)[:, None]

    def of(self, name: str) -> Tensor:
        """Gather an appearance parameter of each fragment's avatar [P, C]."""
        return self.parameters[name][self.avatar]

    @property
    def rest(self) -> Tensor:
        """Rest positions [P, 3]."""
        return self.attributes[:, Attr.REST]

    @property
    def curly(self) -> Tensor:
        """Mask [P, 1] of curly hair."""
        return self.is_(Material.HAIR) & (self.attributes[:, Attr.MODE : Attr.MODE + 1] > CURLY - 0.5)


@dataclass
class Surface:
    """Painted fragments, ready for lighting; [P, 1] where no shape is noted."""

    albedo: Tensor  # [P, 3] linear RGB
    normal: Tensor  # [P, 3] with bumps
    roughness: Tensor
    cavity: Tensor  # share of light inside the mouth
    dry: Tensor  # 1 where skin may shine, less under brow hair
    strand: Tensor  # [P, 2] strand noise


def paint(assets: HeadAssets, f: Fragments) -> Surface:
    """Paint every fragment: colour, bumps and roughness."""
    albedo, normal, roughness, cavity = _ground(assets, f)
    dry = torch.ones_like(cavity)
    strand = torch.zeros(len(dry), 2, device=dry.device)
    _brows(f, albedo, dry)
    eye = (f.material == Material.EYE).nonzero()[:, 0]
    albedo[eye] = _eyes(assets, f.rest[eye], f.parameters["iris"][f.avatar[eye]])
    hair = (f.material == Material.HAIR).nonzero()[:, 0]
    if len(hair):
        a = f.attributes[hair]
        noise = assets.hair_noise(a, f.curls)
        strand[hair] = noise
        edge = 0.72 + 0.28 * smoothstep(0, 3, a[:, Attr.EDGE : Attr.EDGE + 1])
        shade = (1 + 0.20 * noise[:, :1] + 0.15 * noise[:, 1:]).clamp(0.45, 1.7) * edge
        albedo[hair] = f.parameters["hair"][f.avatar[hair]] * shade
        if f.curls:
            curls = (a[:, Attr.MODE] > CURLY - 0.5).nonzero()[:, 0]
            i = hair[curls]
            normal[i] = normalise(normal[i] - 0.55 * assets.noise(a[curls, Attr.REST], 9.0)[:, 3:6])
    return Surface(albedo.clamp_(0.003, 1), normal, roughness, cavity, dry, strand)


@fused
def _ground(assets: HeadAssets, f: Fragments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute albedo and normals [P, 3], roughness and cavity [P, 1] of all but brows, eyes and hair."""
    rest = f.rest
    skin = f.is_(Material.SKIN)
    low = assets.noise(rest + f.of("noise_offset"), 31.0)
    high = assets.noise(rest + f.of("noise_offset"), 5.3)
    pore = assets.noise(rest, 2.1)[:, 2:3]
    lip = f.attributes[:, Attr.LIP : Attr.LIP + 1] * skin
    normal = _bumps(f, low, high, lip)
    albedo, scalp = _skin(f, low[:, :1], high, pore, lip)
    albedo, cavity = _mouth(f, albedo)
    albedo = torch.where(f.is_(Material.CLOTH), _cloth(f, high[:, 1:2], pore), albedo)
    albedo = torch.where(f.is_(Material.LASH), albedo.new_tensor([0.02, 0.015, 0.012]), albedo)
    wet = f.is_(Material.TEETH) | f.is_(Material.GUM) | f.is_(Material.SOCKET)
    skin_roughness = f.of("roughness") - 0.12 * lip + 0.05 * low[:, :1] + 0.25 * scalp
    roughness = torch.where(skin, skin_roughness, 0.85)
    roughness = torch.where(wet, 0.28, torch.where(f.is_(Material.EYE), 0.10, roughness))
    return albedo, normal, roughness, cavity


def _bumps(f: Fragments, low: Tensor, high: Tensor, lip: Tensor) -> Tensor:
    skin, cloth, hair = f.is_(Material.SKIN), f.is_(Material.CLOTH), f.is_(Material.HAIR)
    # Hair cards lie flat: lean their normals outwards from the skull.
    outward = f.rest * f.rest.new_tensor([1, 0.8, 1])
    outward = normalise(rotate(f.rotation[f.frame], outward))
    normal = torch.where(hair, normalise(f.normal + 1.1 * outward), f.normal)
    amount = torch.where(skin, 0.055 * f.of("bump") * (1 - 0.5 * lip), torch.where(cloth, 0.05, 0.0))
    bumped = normal - amount * high[:, 3:6] - torch.where(cloth, 0.07, 0.0) * low[:, 3:6]
    return torch.where(skin | cloth, normalise(bumped), normal)


def _skin(f: Fragments, low: Tensor, high: Tensor, pore: Tensor, lip: Tensor) -> tuple[Tensor, Tensor]:
    rest, hair = f.rest, f.of("hair")
    skin = f.is_(Material.SKIN)
    red, stubble, scalp = (f.attributes[:, k : k + 1] * skin for k in (Attr.RED, Attr.STUBBLE, Attr.SCALP))
    under_eye = f.attributes[:, Attr.UNDER_EYE : Attr.UNDER_EYE + 1] * skin
    middle, fine = high[:, 1:2], high[:, 2:3]
    tone = f.of("tone")
    albedo = tone * (1 + 0.06 * low + 0.025 * fine + 0.03 * pore)
    albedo = albedo + red * f.of("blush") * tone.amax(1, keepdim=True) * tone.new_tensor([0.07, -0.045, -0.035])
    albedo = albedo - under_eye * tone * tone.new_tensor([0.07, 0.10, 0.07])
    freckle = (middle - 1.35).clamp(0, 1) * smoothstep(3.5, 0, (rest[:, 1:2] - 1).abs())
    albedo = albedo * (1 - f.of("freckles") * freckle * tone.new_tensor([0.28, 0.42, 0.5]))
    albedo = torch.lerp(albedo, f.of("lip") * (1 + 0.06 * fine), lip * 0.9)
    covered = smoothstep(-0.5, 0.7, scalp - 0.55 + 0.28 * pore + 0.2 * low) * f.of("scalp")
    covered = covered * (1 - 0.3 * (pore * 0.5).clamp(-1, 1) * f.of("buzz"))
    albedo = torch.lerp(albedo, hair * 0.8 + tone * 0.06, covered.clamp(0, 1) * skin)
    beard = (stubble * f.of("stubble") * (0.55 + 0.22 * pore + 0.08 * low)).clamp(0, 0.85)
    return torch.lerp(albedo, f.of("brow") * 0.7 + tone * 0.10, beard), covered


def _brows(f: Fragments, albedo: Tensor, dry: Tensor) -> None:
    """Draw the brow texture over the skin, in place."""
    rest = f.rest
    u, v = (rest[:, 0].abs() - BROW_X) / BROW_SPAN_X, (rest[:, 1] - BROW_Y) / BROW_SPAN_Y
    inside = (u > 0) & (u < 1) & (v > 0) & (v < 1) & (rest[:, 2] > 6) & (f.material == Material.SKIN)
    i = inside.nonzero()[:, 0]
    height, width = f.brow_textures.shape[1:]
    x, y = u[i] * (width - 1), v[i] * (height - 1)
    x0, y0 = x.long().clamp(0, width - 2), y.long().clamp(0, height - 2)
    fx, fy = x - x0, y - y0
    avatar = f.avatar[i]

    def texel(dy: int, dx: int) -> Tensor:
        return f.brow_textures[avatar, y0 + dy, x0 + dx]

    top = texel(0, 0) * (1 - fx) + texel(0, 1) * fx
    cover = (top * (1 - fy) + (texel(1, 0) * (1 - fx) + texel(1, 1) * fx) * fy)[:, None]
    albedo[i] = torch.lerp(albedo[i], f.parameters["brow"][avatar], cover * 0.95)
    dry[i] = 1 - 0.8 * cover


def _eyes(assets: HeadAssets, rest: Tensor, iris: Tensor) -> Tensor:
    """Paint sclera, iris, limbus and pupil by the angle [degrees] from the optical axis."""
    centre = rest.new_tensor(EYE_CENTRES)[(rest[:, 0] < 0).long()]
    ray = normalise(rest - centre)
    angle = torch.acos(ray[:, 2].clamp(-1, 1)) * (180 / math.pi)
    fibre = assets.strand_noise(torch.atan2(ray[:, 1], ray[:, 0]) * 3.5, angle * 0.5)
    angle = angle[:, None]
    white = rest.new_tensor([0.78, 0.745, 0.72])
    sclera = white * (1 - 0.16 * (angle / 60).clamp(0, 1) ** 2 * rest.new_tensor([0.3, 1, 1]))
    ring = torch.exp(-(((angle - 13) / 5) ** 2))
    colour = iris * (1.15 + 0.28 * fibre[:, :1] + 0.35 * ring) * (0.8 - 0.5 * ray[:, 1:2])
    albedo = torch.lerp(sclera, colour, ((25.5 - angle) / 2).clamp(0, 1))
    albedo = albedo * (1 - 0.65 * torch.exp(-(((angle - 24.5) / 2.4) ** 2)))
    return torch.lerp(albedo, torch.full_like(albedo, 0.008), ((9.8 - angle) / 1.4).clamp(0, 1))


def _mouth(f: Fragments, albedo: Tensor) -> tuple[Tensor, Tensor]:
    """Paint teeth, gums and the inside of the mouth; darker with depth, because no light is traced there."""
    rest = f.rest
    teeth, gum, socket = (f.is_(m) for m in (Material.TEETH, Material.GUM, Material.SOCKET))
    front = smoothstep(5.5, 10.4, rest[:, 2:3])
    cavity = torch.where(gum | socket, 0.12 + 0.75 * front**1.3, torch.ones_like(front))
    cavity = torch.where(teeth, 0.12 + 0.88 * front**1.5, cavity)
    y, back = rest[:, 1:2], 10.3 - rest[:, 2:3]
    upper = smoothstep(-2.75, -2.5, y - 0.10 * back)
    lower = smoothstep(-4.35, -4.6, y - 0.05 * back)
    root = torch.where(y > -3.6, upper, lower)
    enamel = torch.lerp(rest.new_tensor([0.34, 0.17, 0.13]), rest.new_tensor([0.78, 0.69, 0.555]), front)
    albedo = torch.where(teeth, torch.lerp(enamel, rest.new_tensor([0.42, 0.16, 0.15]), root), albedo)
    albedo = torch.where(gum, rest.new_tensor([0.50, 0.19, 0.18]), albedo)
    return torch.where(socket, rest.new_tensor([0.34, 0.11, 0.10]), albedo), cavity


def _cloth(f: Fragments, middle: Tensor, pore: Tensor) -> Tensor:
    """Paint plain or striped cloth, or a jacket whose lapels meet 24 cm below the origin."""
    rest, second = f.rest, f.of("cloth2")
    stripes, jacket, period = f.of("pattern").split(1, 1)
    x, y, z = rest[:, :1].abs(), rest[:, 1:2], rest[:, 2:3]
    wave = ((torch.remainder(y / period, 1) - 0.5).abs() - 0.25) * period  # cm inside the stripe
    colour = torch.lerp(f.of("cloth"), second, smoothstep(-0.06, 0.06, wave) * stripes)
    side = torch.where(z > 0, x - 5.0 * (y + 24) / 13, torch.full_like(x, 9.0))  # cm outside the lapel's edge
    coat = smoothstep(-0.05, 0.05, side) * jacket
    edge = torch.exp(-((side / 0.28) ** 2)) * 0.45 + torch.exp(-(((side - 2.6) / 0.22) ** 2)) * 0.35
    colour = torch.lerp(colour, second, coat) * (1 - edge * jacket)
    colour = colour * (1 + 0.03 * middle + 0.05 * pore)
    below = collar_height(f.of("collar"), rest)[:, None] - y
    rim = smoothstep(0.9, 0.0, below)
    return colour * (1 - 0.25 * (1 - 2 * (rim - 0.5).abs()).clamp(0, 1))


def cloth_exists(rest: Tensor, collar: Tensor) -> Tensor:
    """Test if cloth at rest positions [P, 3] lies below the neckline `collar` [P, 3]: bool [P]."""
    return rest[:, 1] < collar_height(collar, rest)


def hair_exists(assets: HeadAssets, attributes: Tensor, curls: bool) -> Tensor:
    """Test if hair with attributes [P, Attr.MODE + 1] covers its samples, with strands at the borders: bool [P]."""
    strand = assets.hair_noise(attributes, curls)
    ragged = torch.where(attributes[:, Attr.MODE] > CURLY - 0.5, 0.35, 0.9)
    return attributes[:, Attr.EDGE] > 0.2 + ragged * (strand[:, 0] * 0.6 + strand[:, 1] + 0.6).clamp(min=0)


def lash_exists(attributes: Tensor) -> Tensor:
    """Test if single lash hairs cover samples with attributes [P, Attr.LASH_ROW + 1]: bool [P]."""
    t, row = attributes[:, Attr.LASH_T], attributes[:, Attr.LASH_ROW]
    u = attributes[:, Attr.LASH_U] + 0.8 * (1 - t)
    chance = torch.frac(torch.sin(u.floor() * 12.9898) * 43758.5453).abs()
    thin = (torch.remainder(u, 1) - 0.5).abs() < 0.08 + 0.24 * t
    return thin & (t > 0.25 + 0.5 * chance) & (row > 2.5) & (chance > (row - 4).abs().round() * 0.65)


def strand_direction(f: Fragments, surface: Surface) -> Tensor:
    """Compute unit tangents of hair strands [P, 3] in the frame's space."""
    tangent = normalise(rotate(f.rotation[f.frame], f.attributes[:, Attr.TANGENT]))
    tangent = normalise(tangent - dot(tangent, surface.normal) * surface.normal + 1e-4)
    return normalise(tangent + surface.normal * (0.10 * surface.strand[:, 1:2]))
