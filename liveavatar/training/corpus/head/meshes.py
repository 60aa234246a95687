"""Triangle meshes as arrays: OBJ files, triangulation, normals, seams, borders, closest surface points.

Used to rebuild the corpus' asset files; rendering does not need it.

Shapes: V vertices, T triangles, E edges.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from liveavatar.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjMesh:
    """Contents of an OBJ file."""

    vertices: np.ndarray  # float64 [V, 3]
    uv: np.ndarray  # float64 [U, 2]
    faces: list[list[int]]  # polygons, indices into vertices
    faces_uv: list[list[int]]  # the same corners, indices into uv; empty lists where a face has none
    groups: np.ndarray  # [faces] name of the group

    def in_group(self, name: str) -> list[list[int]]:
        """Select the polygons of a group."""
        return [f for f, g in zip(self.faces, self.groups, strict=True) if g == name]


def read_obj(path: Path) -> ObjMesh:
    """Read vertices, texture coordinates, polygons and groups.

    Raises:
        InputError: when the file is missing or holds no vertices.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; give a full clone of the repository it belongs to")
    vertices, uv, faces, faces_uv, groups, group = [], [], [], [], [], ""
    for line in path.read_text().splitlines():
        words = line.split()
        if not words:
            continue
        if words[0] == "v":
            vertices.append([float(x) for x in words[1:4]])
        elif words[0] == "vt":
            uv.append([float(x) for x in words[1:3]])
        elif words[0] == "g":
            group = words[1] if len(words) > 1 else ""
        elif words[0] == "f":
            corners = [w.split("/") for w in words[1:]]
            faces.append([int(c[0]) - 1 for c in corners])
            faces_uv.append([int(c[1]) - 1 for c in corners if len(c) > 1 and c[1]])
            groups.append(group)
    if not vertices:
        raise InputError(f"{path} holds no vertices; is it an OBJ file?")
    return ObjMesh(
        vertices=np.array(vertices), uv=np.array(uv).reshape(-1, 2), faces=faces, faces_uv=faces_uv,
        groups=np.array(groups),
    )  # fmt: skip


def fan(faces: list[list[int]]) -> np.ndarray:
    """Triangulate polygons from their first corner, int64 [T, 3]."""
    return np.array([(f[0], f[i], f[i + 1]) for f in faces for i in range(1, len(f) - 1)], np.int64).reshape(-1, 3)


def split_seams(mesh: ObjMesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give every (vertex, uv) pair its own vertex.

    Returns:
        source vertex [V'], uv [V', 2], triangles [T, 3] into them.
    """
    corner, corner_uv = fan(mesh.faces), fan(mesh.faces_uv)
    keys = corner * (len(mesh.uv) + 1) + corner_uv
    unique, inverse = np.unique(keys, return_inverse=True)
    return unique // (len(mesh.uv) + 1), mesh.uv[unique % (len(mesh.uv) + 1)], inverse.reshape(corner.shape)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Compute area-weighted unit normals [V, 3]; zero at vertices without triangles."""
    p = vertices[triangles]
    face = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, triangles[:, k], face)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def components(triangles: np.ndarray, num_vertices: int) -> tuple[int, np.ndarray]:
    """Find connected components: their number, and the component of each vertex [V]."""
    rows, columns = triangles.ravel(), np.roll(triangles, -1, 1).ravel()
    graph = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (num_vertices, num_vertices))
    return csgraph.connected_components(graph, directed=False)


def border_distance(vertices: np.ndarray, triangles: np.ndarray, limit: float) -> np.ndarray:
    """Compute the distance [V] along edges to the mesh border, at most `limit`; `limit` everywhere on a closed mesh."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
    edges, count = np.unique(edges, axis=0, return_counts=True)
    border = np.unique(edges[count == 1])
    if not len(border):
        return np.full(len(vertices), limit)
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1) + 1e-4
    graph = sparse.csr_matrix((length, (edges[:, 0], edges[:, 1])), (len(vertices), len(vertices)))
    distance = csgraph.dijkstra(graph, directed=False, indices=border, min_only=True, limit=limit)
    return np.minimum(distance, limit)


class SurfaceSamples:
    """Dense random sampling of a surface, for closest points and for binding other meshes to it."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray, count: int = 120_000, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        p = vertices[triangles]
        area = np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1)
        self.triangle = rng.choice(len(triangles), count, p=area / area.sum())
        u = rng.random((count, 2))
        outside = u.sum(1) > 1
        u[outside] = 1 - u[outside]
        self.barycentric = np.c_[1 - u.sum(1), u]
        self.corners = triangles[self.triangle]
        self.points = (vertices[self.corners] * self.barycentric[..., None]).sum(1)
        normals = (vertex_normals(vertices, triangles)[self.corners] * self.barycentric[..., None]).sum(1)
        self.normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        self._tree = cKDTree(self.points)

    def nearest(self, points: np.ndarray, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest sample, optionally among some samples only: distance and sample number."""
        if among is None:
            return self._tree.query(points)
        distance, i = cKDTree(self.points[among]).query(points)
        return distance, among[i]

    def push_out(self, points: np.ndarray, clearance: float, reach: float = 4.0, rounds: int = 3) -> np.ndarray:
        """Move points under the surface, or closer than `clearance` above it, outwards."""
        points = points.copy()
        for _ in range(rounds):
            distance, i = self.nearest(points)
            height = ((points - self.points[i]) * self.normals[i]).sum(1)
            low = (height < clearance) & (distance < reach)
            points[low] += (clearance - height[low])[:, None] * self.normals[i][low]
        return points

    def bind(self, points: np.ndarray, among: np.ndarray, triangle_ids: np.ndarray) -> dict[str, np.ndarray]:
        """Bind points to the surface: the arrays of a `geometry.Piece`."""
        _, i = self.nearest(points, among)
        offset = points - self.points[i]
        return {
            "bind_tri": triangle_ids[self.triangle[i]].astype(np.int32),
            "bind_vert": self.corners[i].astype(np.uint16),
            "bind_bary": self.barycentric[i].astype(np.float16),
            "bind_offset": offset.astype(np.float16),
            "bind_normal_offset": (offset * self.normals[i]).sum(1).astype(np.float16),
        }
