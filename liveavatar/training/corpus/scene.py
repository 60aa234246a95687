"""What a batch of shots looks like before it is lit: flat arrays of all frames, and the visible points.

A *shot* is some frames of one avatar in one light before one backdrop. A *scene* joins shots into one set of
triangles, so that the rasteriser draws all frames at once.

Shapes: B frames, V vertices of an avatar, V* vertices of all frames, T triangles of all frames, P fragments.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.training.corpus.avatar import Avatar
from liveavatar.training.corpus.geometry import CAMERA_DISTANCE, CENTRE_Y, Camera, Material, dot, normalise, scatter_sum
from liveavatar.training.corpus.look import Backdrop, Lighting
from liveavatar.training.corpus.raster import EMPTY, triangle_of
from liveavatar.training.corpus.surface import Fragments


@dataclass(slots=True)
class Shot:
    """Frames of one avatar in one light before one backdrop."""

    avatar: Avatar
    vertices: Tensor  # [B, V, 3] from Avatar.pose
    head_rotation: Tensor  # [B, 3, 3]
    lighting: Lighting
    backdrop: Backdrop


@dataclass(slots=True)
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
    parameters: dict[str, Tensor]  # per shot

    def attribute(self, triangle: Tensor, w1: Tensor, w2: Tensor, columns: slice = slice(None)) -> Tensor:
        """Interpolated attributes [P, columns]."""
        return _interpolate(self.attributes[:, columns], self.rest_triangles[triangle], w1, w2)


def _interpolate(table: Tensor, corners: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    a, b, c = (table[corners[:, k]] for k in range(3))
    return a * (1 - w1 - w2)[:, None] + b * w1[:, None] + c * w2[:, None]


def join(shots: list[Shot]) -> Scene:
    """One scene of all frames of all shots, in order; the avatars share a device."""
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
        parameters={k: torch.stack([a.parameters[k] for a in avatars]) for k in avatars[0].parameters},
    )  # fmt: skip


class PixelMap:
    """Pixel bookkeeping: which pixels are covered, and scattering fragment values back into pictures."""

    def __init__(self, keys: Tensor, frames: int, camera: Camera, scale: int) -> None:
        self.frames, self.scale = frames, scale
        self.height, self.width = camera.height * scale, camera.width * scale
        self.covered = keys < EMPTY
        self.pixel = self.covered.nonzero()[:, 0]
        self.triangle = triangle_of(keys[self.pixel])
        self.frame = self.pixel // (self.height * self.width)
        self.x = (self.pixel % self.width) + 0.5
        self.y = ((self.pixel // self.width) % self.height) + 0.5

    def picture(self, values: Tensor, empty: float = 0.0) -> Tensor:
        """Fragment values [P, C] -> [B, h, w, C]."""
        size = self.frames * self.height * self.width
        full = torch.full((size, values.shape[1]), empty, device=values.device, dtype=values.dtype)
        return full.index_copy_(0, self.pixel, values).reshape(self.frames, self.height, self.width, -1)

    def gather(self, small_BCHW: Tensor) -> Tensor:
        """Values at the fragments [P, C] of a picture at output resolution, enlarged."""
        big = small_BCHW
        if self.scale > 1:
            big = F.interpolate(small_BCHW, scale_factor=self.scale, mode="bilinear")
        return big.permute(0, 2, 3, 1).reshape(-1, small_BCHW.shape[1])[self.pixel]


def fragments(scene: Scene, screen: Tensor, pixels: PixelMap, shots: list[Shot]) -> Fragments:
    """Visible points of a drawn scene; `screen` [V*, 3] are its projected vertices."""
    corners = scene.triangles[pixels.triangle]
    a, b, c = (screen[corners[:, k]] for k in range(3))
    e1, e2 = b - a, c - a
    inverse = 1 / (e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0])
    dx, dy = pixels.x - a[:, 0], pixels.y - a[:, 1]
    w1, w2 = (dx * e2[:, 1] - dy * e2[:, 0]) * inverse, (e1[:, 0] * dy - e1[:, 1] * dx) * inverse
    position = _interpolate(scene.points, corners, w1, w2)
    normal = normalise(_interpolate(scene.normals, corners, w1, w2))
    material = scene.material[pixels.triangle]
    view = normalise(position.new_tensor([0, CENTRE_Y, CAMERA_DISTANCE]) - position)
    behind = (dot(normal, view)[:, 0] < 0) & (material >= Material.LASH)
    flip = torch.where(material == Material.CLOTH, inverse > 0, behind)[:, None]
    shot = scene.shot[pixels.frame]
    return Fragments(
        frame=pixels.frame, material=material, attributes=scene.attribute(pixels.triangle, w1, w2), position=position,
        normal=torch.where(flip, -normal, normal), view=view,
        parameters={k: v[shot] for k, v in scene.parameters.items()},
        brow_textures=torch.stack([s.avatar.brow_texture for s in shots]), avatar=shot,
        head_rotation=scene.rotation[pixels.frame],
    )  # fmt: skip
