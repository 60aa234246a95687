"""Scene of a batch of shots before lighting: flat arrays of all frames, and the visible points.

A *shot* is some frames of one avatar in one light before one backdrop. A *scene* joins shots into one set of
triangles, so that the rasteriser draws all frames at once.

Shapes: B frames, V vertices of an avatar, V* vertices of all frames, T triangles of all frames, P fragments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from liveavatar.training.corpus.head.avatar import Avatar
from liveavatar.training.corpus.head.geometry import (
    CAMERA_DISTANCE,
    CENTRE_Y,
    Camera,
    Material,
    dot,
    normalise,
    scatter_sum,
)
from liveavatar.training.corpus.render.fuse import fused
from liveavatar.training.corpus.render.look import Backdrop, Lighting
from liveavatar.training.corpus.render.raster import EMPTY, triangle_of
from liveavatar.training.corpus.render.surface import Fragments


@dataclass(slots=True)
class Shot:
    """Frames of one avatar in one light before one backdrop."""

    avatar: Avatar
    vertices: Tensor  # [B, V, 3] from Avatar.pose
    head_rotation: Tensor  # [B, 3, 3]
    lighting: Lighting
    backdrop: Backdrop


@dataclass
class Scene:
    """All shots of a call as flat arrays; triangle t of frame b has its own row."""

    points: Tensor  # [V*, 3]
    normals: Tensor  # [V*, 3]
    triangles: Tensor  # [T, 3] into points
    rest_triangles: Tensor  # [T, 3] into attributes
    attributes: Tensor  # [V', Attr.WIDTH] one copy per shot
    material: Tensor  # [T]
    frame: Tensor  # [T]
    shot: Tensor  # [B] shot of each frame
    point_frame: Tensor  # [V*]
    rotation: Tensor  # [B, 3, 3]
    parameters: dict[str, Tensor]  # per shot, see `rows_of`
    curls: bool  # whether an avatar has curly hair

    def attribute(self, triangle: Tensor, w1: Tensor, w2: Tensor, columns: slice = slice(None)) -> Tensor:
        """Interpolate attributes [P, columns]."""
        return interpolate(self.attributes[:, columns], self.rest_triangles[triangle], w1, w2)


def interpolate(table: Tensor, corners: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Interpolate values [P, C] between the three corners [P, 3] of triangles, from a table [V, C]."""
    a, b, c = (table[corners[:, k]] for k in range(3))
    return a * (1 - w1 - w2)[:, None] + b * w1[:, None] + c * w2[:, None]


def rows_of(shots: list[Shot]) -> list[Shot]:
    """List the shots of a table with one row per shot.

    At least two, because compiled kernels treat a length of one as fixed.
    """
    return shots if len(shots) > 1 else shots * 2


def join(shots: list[Shot]) -> Scene:
    """Join all frames of all shots, in order, into one scene; the avatars share a device."""
    device = shots[0].avatar.device
    points, triangles, rest_triangles, material, frame, weld, point_frame, shot_of = ([] for _ in range(8))
    num_points = num_rest = num_frames = 0
    for number, shot in enumerate(shots):
        avatar = shot.avatar
        b, n = shot.vertices.shape[:2]
        base = torch.arange(b, device=device)[:, None, None] * n + num_points
        points.append(shot.vertices.reshape(-1, 3))
        triangles.append((avatar.faces[None] + base).reshape(-1, 3))
        rest_triangles.append((avatar.faces + num_rest).repeat(b, 1))
        material.append(avatar.material.repeat(b))
        weld.append((avatar.weld[None] + base[:, 0]).reshape(-1))
        frames = torch.arange(num_frames, num_frames + b, device=device)
        frame.append(frames.repeat_interleave(len(avatar.faces)))
        point_frame.append(frames.repeat_interleave(n))
        shot_of.append(torch.full((b,), number, device=device))
        num_points, num_rest, num_frames = num_points + b * n, num_rest + n, num_frames + b
    all_points, all_triangles, all_weld = torch.cat(points), torch.cat(triangles), torch.cat(weld)
    e1, e2 = (all_points[all_triangles[:, k]] - all_points[all_triangles[:, 0]] for k in (1, 2))
    total = scatter_sum(torch.cross(e1, e2, dim=1), all_weld[all_triangles], num_points)
    avatars = [s.avatar for s in shots]
    return Scene(
        points=all_points, normals=normalise(total)[all_weld], triangles=all_triangles,
        rest_triangles=torch.cat(rest_triangles), attributes=torch.cat([a.attributes for a in avatars]),
        material=torch.cat(material), frame=torch.cat(frame), shot=torch.cat(shot_of),
        point_frame=torch.cat(point_frame), rotation=torch.cat([s.head_rotation for s in shots]),
        parameters={k: torch.stack([s.avatar.parameters[k] for s in rows_of(shots)]) for k in avatars[0].parameters},
        curls=any(a.curls for a in avatars),
    )  # fmt: skip


class PixelMap:
    """Pixel bookkeeping: covered pixels, and the mapping between pictures and fragments."""

    def __init__(self, keys: Tensor, frames: int, camera: Camera, scale: int) -> None:
        self.frames, self.scale = frames, scale
        self.height, self.width = camera.height * scale, camera.width * scale
        self.pixel = (keys < EMPTY).nonzero()[:, 0]
        self.triangle = triangle_of(keys[self.pixel])
        device = keys.device
        # Fragment of each sample, -1 where there is none.
        self.slot = torch.full(keys.shape, -1, dtype=torch.int32, device=device)
        self.slot[self.pixel] = torch.arange(len(self.pixel), dtype=torch.int32, device=device)
        self.sides = torch.tensor([self.height, self.width], dtype=torch.int32, device=device)
        # Numbers of all pixels at output resolution.
        self.low = torch.arange(frames * camera.height * camera.width, dtype=torch.int32, device=device)

    def pictures(self, values: Tensor) -> Tensor:
        """Reshape values of all pixels at output resolution [B * H * W, C] to [B, C, H, W]."""
        size = (self.frames, self.height // self.scale, self.width // self.scale, -1)
        return values.reshape(size).permute(0, 3, 1, 2)


def place_of(pixel: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split pixel numbers into frame, row and column [P]."""
    row = pixel // width
    return row // height, row % height, pixel % width


def enlarged(low: Tensor, pixel: Tensor, sides: Tensor, scale: int) -> Tensor:
    """Sample pictures [B * H * W, C], enlarged `scale` times with linear interpolation, at `pixel`: [P, C].

    `sides` are the height and width of the enlarged pictures.
    """
    frame, row, column = place_of(pixel.int(), sides[0], sides[1])
    height, width = sides[0] // scale, sides[1] // scale
    y, x = (((v + 0.5) / scale - 0.5).clamp(min=0) for v in (row, column))
    y0, x0 = y.int(), x.int()
    y1, x1 = torch.minimum(y0 + 1, height - 1), torch.minimum(x0 + 1, width - 1)
    fy, fx = (y - y0)[:, None], (x - x0)[:, None]
    upper, lower = ((frame * height + v) * width for v in (y0, y1))
    top = low[upper + x0] * (1 - fx) + low[upper + x1] * fx
    return top * (1 - fy) + (low[lower + x0] * (1 - fx) + low[lower + x1] * fx) * fy


def fragments(scene: Scene, screen: Tensor, pixels: PixelMap, shots: list[Shot]) -> Fragments:
    """Compute the visible points of a drawn scene; `screen` [V*, 3] are its projected vertices."""
    position, normal, view, attributes, material, frame, shot = _visible(
        pixels.pixel, pixels.triangle, pixels.sides, screen, scene
    )
    return Fragments(
        frame=frame, material=material, attributes=attributes, position=position, normal=normal, view=view,
        parameters=scene.parameters, brow_textures=torch.stack([s.avatar.brow_texture for s in shots]), avatar=shot,
        rotation=scene.rotation, curls=scene.curls,
    )  # fmt: skip


@fused
def _visible(pixel: Tensor, triangle: Tensor, sides: Tensor, screen: Tensor, scene: Scene) -> tuple[Tensor, ...]:
    """Interpolate position, normal, view [P, 3], attributes [P, Attr.WIDTH], material, frame and shot [P]."""
    frame, row, column = place_of(pixel.int(), sides[0], sides[1])
    corners = scene.triangles[triangle]
    a, b, c = (screen[corners[:, k]] for k in range(3))
    e1, e2 = b - a, c - a
    inverse = 1 / (e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0])
    dx, dy = column + 0.5 - a[:, 0], row + 0.5 - a[:, 1]
    w1, w2 = (dx * e2[:, 1] - dy * e2[:, 0]) * inverse, (e1[:, 0] * dy - e1[:, 1] * dx) * inverse
    position = interpolate(scene.points, corners, w1, w2)
    normal = normalise(interpolate(scene.normals, corners, w1, w2))
    material = scene.material[triangle].int()
    view = normalise(position.new_tensor([0, CENTRE_Y, CAMERA_DISTANCE]) - position)
    behind = (dot(normal, view)[:, 0] < 0) & (material >= Material.LASH.value)
    flip = torch.where(material == Material.CLOTH.value, inverse > 0, behind)[:, None]
    attributes = interpolate(scene.attributes, scene.rest_triangles[triangle], w1, w2)
    return position, torch.where(flip, -normal, normal), view, attributes, material, frame, scene.shot[frame].int()
