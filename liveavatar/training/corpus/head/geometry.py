"""Head geometry as tensors: mesh, shapes, painted masks, hair and clothes, noise, and the camera.

Reads the asset files (see `assets.py`): `ict_facekit.npz` and `hair/*.npz`. Units are centimetres, +y up, +z to
the viewer, +x the subject's left, origin inside the head. The *rest position* of a point is its position on the
neutral generic head; painted masks and noise are looked up there, so they move with the skin.

Shapes: V vertices, F triangles, K expression shapes, I identity modes, B frames, P pixels.
"""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.errors import InputError
from liveavatar.training.corpus.head.noise import noise_volume, strand_noise


class Material(IntEnum):
    """Material of a triangle; from `LASH` on it is alpha-tested and drawn from both sides."""

    SKIN = 0
    SOCKET = 1
    GUM = 2
    TEETH = 3
    EYE = 4
    LASH = 5
    HAIR = 6
    CLOTH = 7


class Attr:
    """Columns of the per-vertex attribute table; hair and lashes use some columns for other attributes."""

    REST = slice(0, 3)
    LIP, RED, STUBBLE, SCALP, UNDER_EYE = 3, 4, 5, 6, 7
    ACROSS, ALONG, EDGE, MODE = 7, 8, 9, 10  # hair: strand coordinates, cm to the border, strand mode
    LASH_U, LASH_T, LASH_ROW = 7, 8, 9  # lashes: along the lid, 0 tip .. 1 root, row
    TANGENT = slice(11, 14)
    WIDTH = 14


HAIR_STYLES = (
    "afro01",
    "bob01",
    "bob02",
    "braid01",
    "long01",
    "ponytail01",
    "short01",
    "short02",
    "short03",
    "short04",
)
BROW_STYLES = ("eyebrow001", "eyebrow004", "eyebrow006", "eyebrow009", "eyebrow010", "eyebrow012")
TORSOS = ("torso_f", "torso_m")
EYE_CENTRES = ((3.1025, 3.6043, 7.8821), (-3.1025, 3.6043, 7.8821))  # cm, of the generic head
CROWN = (0.0, 13.2, -2.0)  # cm, the hair whorl
MERIDIAN, CURLY = 1, 2  # strand modes: along meridians around the crown; isotropic curls
CAMERA_DISTANCE = 95.0  # cm from the origin
PIXELS_PER_CM = 9.1 / 384  # of the picture's height, at the origin, zoom 1
CENTRE_Y = -1.6  # cm, the height the camera looks at

_PARTS = (
    ("face", Material.SKIN), ("head", Material.SKIN), ("eye_socket", Material.SKIN), ("mouth", Material.SOCKET),
    ("gums", Material.GUM), ("teeth", Material.TEETH), ("sclera", Material.EYE), ("lashes", Material.LASH),
)  # fmt: skip


def smoothstep(low: float, high: float, x: Tensor) -> Tensor:
    """Compute the cubic step from 0 at `low` to 1 at `high`; with low > high it falls from 1 to 0."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def normalise(x: Tensor) -> Tensor:
    """Normalise vectors along the last axis to unit length."""
    return F.normalize(x, dim=-1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Compute the inner product along the last axis, which stays with length 1."""
    return (a * b).sum(-1, keepdim=True)


def rotate(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply each vector [P, 3] by its own matrix [P, 3, 3]."""
    return (matrix * x[:, None]).sum(-1)


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Build rotation matrices [B, 3, 3] from angles in radians [B]: roll first, then pitch, then yaw."""
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, -1).reshape(-1, 3, 3)

    y = matrix(yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos())
    p = matrix(one, zero, zero, zero, pitch.cos(), -pitch.sin(), zero, pitch.sin(), pitch.cos())
    r = matrix(roll.cos(), -roll.sin(), zero, roll.sin(), roll.cos(), zero, zero, zero, one)
    return y @ p @ r


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Add per-triangle values [T, 3] at their three corners `index` [T, 3] -> [size, 3].

    Sums in fixed point (2^-24): the order of integer additions does not matter, so a GPU gives the same bits each time.
    """
    fixed = (values * 2.0**24).long()
    total = torch.zeros(size, 3, dtype=torch.long, device=values.device)
    for k in range(3):
        total.index_add_(0, index[:, k], fixed)
    return total.to(values.dtype) / 2.0**24


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """Fixed camera on the z axis."""

    height: int  # pixels
    width: int
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)  # of the picture's height, to the right and up

    def project(self, points: Tensor, scale: int = 1) -> Tensor:
        """Project points [..., 3] in cm to [..., 3]: x and y in pixels (times `scale`), depth in cm."""
        h, w = self.height * scale, self.width * scale
        depth = CAMERA_DISTANCE - points[..., 2]
        focal = PIXELS_PER_CM * CAMERA_DISTANCE * self.zoom * h
        x = w / 2 + self.shift[0] * h + focal * points[..., 0] / depth
        y = h / 2 - self.shift[1] * h - focal * (points[..., 1] - CENTRE_Y) / depth
        return torch.stack([x, y, depth], -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Hair or cloth bound to the head."""

    vertices: Tensor  # [V, 3]
    faces: Tensor  # [F, 3]
    attributes: Tensor  # [V, Attr.WIDTH]
    weld: Tensor  # [V] vertex that shares this one's normal
    bind_vertex: Tensor  # [V, 3] head vertices it hangs on
    bind_weight: Tensor  # [V, 3]

    def follow(self, head_delta: Tensor) -> Tensor:
        """Move the vertices [V, 3] along with a head whose vertices moved by `head_delta`."""
        return self.vertices + (head_delta[self.bind_vertex] * self.bind_weight[..., None]).sum(1)


class HeadAssets:
    """Meshes, shapes and noise that all avatars share, on one device.

    Raises:
        InputError: when the folder holds no asset files.
    """

    def __init__(self, root: Path, device: torch.device | str = "cpu") -> None:
        if not (root / "ict_facekit.npz").is_file():
            raise InputError(
                f"--assets {root}: there is no ict_facekit.npz; build it with "
                "`python -m liveavatar.training.corpus.head.assets` from the two public repositories"
            )
        self.root = root
        self.device = torch.device(device)
        raw = np.load(root / "ict_facekit.npz")
        part_names = [str(n) for n in raw["part_names"]]
        material = np.array([next((m for k, m in _PARTS if n.startswith(k)), -1) for n in part_names])
        face_material = material[raw["face_part"]]
        drawn = face_material >= 0
        self.vertices = self._tensor(raw["vertices"])
        self.faces = self._tensor(raw["faces"][drawn], torch.long)
        self.material = self._tensor(face_material[drawn], torch.long)
        self.identity = self._tensor(raw["identity"])  # [I, V, 3]
        self.expression_names = [str(n) for n in raw["expr_names"]]
        self.expression = self._tensor(_dense_shapes(raw))  # [K, V, 3]
        self.landmarks68 = self._tensor(raw["landmarks68"], torch.long)
        part = self._tensor(raw["vertex_part"], torch.long)
        self.eyes = [(part == part_names.index(f"sclera_{side}")).nonzero()[:, 0] for side in "LR"]
        self.attributes = _painted_attributes(self.vertices, part, self._lash_uv(raw, face_material))
        self.volume = self._tensor(noise_volume())[None]
        self.strands = self._tensor(strand_noise())[None]
        self.pieces = {n: self._piece(root / "hair" / f"{n}.npz") for n in (*HAIR_STYLES, *TORSOS)}

    def _tensor(self, array: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(np.asarray(array)).to(self.device, dtype)

    def index(self, name: str) -> int:
        """Look up the number of an expression shape."""
        return self.expression_names.index(name)

    def noise(self, points: Tensor, period: float) -> Tensor:
        """Sample tileable 3-D noise at points [P, 3] cm, repeating every `period` cm.

        Returns:
            [P, 6]: low, middle and fine noise of unit variance, gradient of the fine one.
        """
        grid = torch.remainder(points / period, 1) * 2 - 1
        return F.grid_sample(self.volume, grid[None, :, None, None, :], align_corners=True)[0, :, :, 0, 0].T

    def strand_noise(self, across: Tensor, along: Tensor) -> Tensor:
        """Sample two noises [P, 2] stretched along the strands; coordinates in cm."""
        grid = torch.stack([torch.remainder(across / 22, 1), torch.remainder(along / 30, 1)], -1) * 2 - 1
        # All points lie inside, so the border is never read; it keeps cuDNN's sampler away, which does not compile.
        inside = F.grid_sample(self.strands, grid[None, :, None, :], padding_mode="border", align_corners=True)
        return inside[0, :, :, 0].T

    def hair_noise(self, attributes: Tensor, curls: bool) -> Tensor:
        """Sample strand noise [P, 2] at hair points; isotropic noise on curls, with `curls`."""
        a = attributes
        dx, dy, dz = a[:, 0] - CROWN[0], a[:, 1] - CROWN[1], a[:, 2] - CROWN[2]
        meridian = (a[:, Attr.MODE] - MERIDIAN).abs() < 0.5
        across = torch.where(meridian, torch.atan2(dx, dz) * 7.0, a[:, Attr.ACROSS])
        along = torch.where(meridian, (dx**2 + dz**2 + dy**2).sqrt(), a[:, Attr.ALONG])
        noise = self.strand_noise(across, along)
        if curls:
            curly = a[:, Attr.MODE : Attr.MODE + 1] > CURLY - 0.5
            noise = torch.where(curly, self.noise(a[:, Attr.REST], 9.0)[:, 1:3], noise)
        return noise

    def _lash_uv(self, raw: np.lib.npyio.NpzFile, face_material: np.ndarray) -> Tensor:
        lash = face_material == Material.LASH
        uv = torch.zeros(len(raw["vertices"]), 2, device=self.device)
        corner_uv = np.asarray(raw["uv"], np.float32)[raw["faces_uv"][lash]]
        uv[self._tensor(raw["faces"][lash], torch.long).reshape(-1)] = self._tensor(corner_uv).reshape(-1, 2)
        return uv

    def _piece(self, path: Path) -> Piece:
        raw = np.load(path)
        vertices = self._tensor(raw["vertices"])
        faces = self._tensor(raw["faces"].astype(np.int64), torch.long)
        attributes = torch.zeros(len(vertices), Attr.WIDTH, device=self.device)
        attributes[:, Attr.REST] = vertices
        weld = torch.arange(len(vertices), device=self.device)
        if "strand" in raw:
            weld = self._tensor(raw["weld"].astype(np.int64), torch.long)
            attributes[:, Attr.ACROSS : Attr.ALONG + 1] = self._tensor(raw["strand"])
            attributes[:, Attr.EDGE] = self._tensor(raw["edge_dist"])
            attributes[:, Attr.MODE] = self._tensor(raw["strand_mode"])
            attributes[:, Attr.TANGENT] = _strand_tangents(vertices, faces, attributes)
        return Piece(
            vertices=vertices, faces=faces, attributes=attributes, weld=weld,
            bind_vertex=self._tensor(raw["bind_vert"].astype(np.int64), torch.long),
            bind_weight=self._tensor(raw["bind_bary"]),
        )  # fmt: skip


def _dense_shapes(raw: np.lib.npyio.NpzFile) -> np.ndarray:
    offset, index, delta = raw["expr_offset"], raw["expr_index"], raw["expr_delta"]
    shapes = np.zeros((len(offset) - 1, *raw["vertices"].shape), np.float32)
    for k in range(len(shapes)):
        rows = slice(offset[k], offset[k + 1])
        shapes[k, index[rows]] = delta[rows]
    return shapes


def _strand_tangents(vertices: Tensor, faces: Tensor, attributes: Tensor) -> Tensor:
    """Compute the direction [V, 3] of growing along-strand coordinate."""
    e1, e2 = (vertices[faces[:, k]] - vertices[faces[:, 0]] for k in (1, 2))
    strand = attributes[:, Attr.ACROSS : Attr.ALONG + 1]
    d1, d2 = (strand[faces[:, k]] - strand[faces[:, 0]] for k in (1, 2))
    determinant = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]
    direction = (e2 * d1[:, :1] - e1 * d2[:, :1]) * determinant.sign()[:, None]
    total = scatter_sum(direction, faces, len(vertices))
    radial = vertices - vertices.new_tensor(CROWN)
    return normalise(torch.where(attributes[:, Attr.MODE : Attr.MODE + 1] > 0.5, radial, total))


def _painted_attributes(points: Tensor, part: Tensor, lash_uv: Tensor) -> Tensor:
    """Build the attribute table [V, Attr.WIDTH] of the head: masks painted by position on the generic neutral face."""
    x, y, z = points.unbind(1)
    ax = x.abs()

    def curve(at: list[float], value: list[float]) -> Tensor:
        return torch.as_tensor(np.interp(ax.cpu().numpy(), at, value), dtype=points.dtype, device=points.device)

    def blob(centre: tuple[float, float, float], radius: float) -> Tensor:
        offset = torch.stack([ax, y, z], 1) - points.new_tensor(centre)
        return torch.exp(-(offset**2).sum(1) / (2 * radius * radius))

    upper_lip = curve([0, 0.4, 0.73, 1.7, 2.53], [-2.52, -2.44, -2.42, -2.80, -3.45])
    lower_lip = curve([0, 1.03, 1.8, 2.53], [-4.40, -4.30, -4.06, -3.58])
    lip = smoothstep(-0.16, 0.10, upper_lip - y) * smoothstep(-0.18, 0.12, y - lower_lip)
    lip = lip * smoothstep(2.7, 2.3, ax) * (z > 8.8) * (part == 0)
    red = 0.9 * blob((5, 0, 8.5), 1.9) + 0.8 * blob((0, 0.3, 12.6), 1.1) + 0.4 * blob((0, -7, 10), 1.3)
    red = red + 0.9 * blob((8.8, 1, 0), 2.0) + 0.6 * blob((3, 4.3, 9.4), 0.8) + 0.5 * blob((1, -0.4, 11.6), 0.7)
    under_eye = blob((3.0, 2.2, 9.3), 0.75) + 0.5 * blob((2.0, 2.6, 9.3), 0.5)
    jaw = smoothstep(-0.5, 0.7, -3.0 + (9.6 - z) * 0.52 - y)
    moustache = smoothstep(3.0, 2.3, ax) * smoothstep(-1.0, -1.5, y)
    stubble = torch.maximum(jaw, moustache) * smoothstep(-10.5, -8.5, y) * smoothstep(0.0, 2.2, z)
    stubble = stubble * (1 - lip) * (part <= 1)
    sides = torch.minimum(3.0 + 0.3 * (y - 4) - z, y - 0.6)
    scalp = torch.maximum(y - (9.7 - 0.022 * ax**2), torch.maximum(sides, torch.minimum(-1.8 - z, y + 5.2)))
    scalp = torch.where((ax > 8.15) & (y < 5), scalp.new_tensor(-2.0), scalp)
    scalp = torch.where(part <= 1, scalp, scalp.new_tensor(-9.0))
    row = ((lash_uv[:, 1] - 0.014) / 0.16667).floor()
    along = (((lash_uv[:, 1] - 0.014) % 0.16667) / 0.14).clamp(0, 1)
    zero, lash = torch.zeros_like(x), part >= 17
    table = torch.zeros(len(points), Attr.WIDTH, device=points.device)
    table[:, Attr.REST] = points
    table[:, 3:7] = torch.stack([lip, red, stubble, scalp], 1)
    table[:, Attr.LASH_U] = torch.where(lash, lash_uv[:, 0] * 50 + row * 3.37, under_eye)
    table[:, Attr.LASH_T] = torch.where(lash, along, zero)
    table[:, Attr.LASH_ROW] = torch.where(lash, row, zero)
    return table
