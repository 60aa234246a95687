"""Mesh arithmetic on meshes small enough to check by hand."""

from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.training.corpus.head.meshes import (
    SurfaceSamples,
    border_distance,
    components,
    fan,
    read_obj,
    split_seams,
    vertex_normals,
)

# Two unit squares side by side; the second one has its own texture corners along the shared edge.
OBJ = """
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 2 0 0
v 2 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vt 0.5 0.5
vt 0.6 0.5
g left
f 1/1 2/2 3/3 4/4
g right
f 2/5/9 5/6/9 6/6/9 3/5/9
"""


@pytest.fixture
def obj(tmp_path: Path) -> Path:
    path = tmp_path / "a.obj"
    path.write_text(OBJ)
    return path


def test_read_obj(obj: Path) -> None:
    mesh = read_obj(obj)
    assert mesh.vertices.shape == (6, 3)
    assert mesh.uv.shape == (6, 2)
    assert mesh.faces == [[0, 1, 2, 3], [1, 4, 5, 2]]
    assert mesh.faces_uv[1] == [4, 5, 5, 4]
    assert mesh.in_group("right") == [[1, 4, 5, 2]]
    assert fan(mesh.faces).tolist() == [[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2]]


@pytest.mark.parametrize(
    ("text", "words"),
    [pytest.param(None, "missing", id="no file"), pytest.param("hello\n", "no vertices", id="no mesh")],
)
def test_unreadable_obj(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "b.obj"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_obj(path)


def test_split_seams_splits_the_shared_edge_only(obj: Path) -> None:
    mesh = read_obj(obj)
    source, uv, triangles = split_seams(mesh)
    assert len(source) == 8
    assert sorted(source.tolist()) == [0, 1, 1, 2, 2, 3, 4, 5]
    np.testing.assert_array_equal(source[triangles], fan(mesh.faces))
    np.testing.assert_array_equal(uv[triangles], mesh.uv[fan(mesh.faces_uv)])


def test_normals_components_and_borders() -> None:
    grid = np.array([(x, y, 0.0) for y in range(5) for x in range(5)])
    quads = [[y * 5 + x, y * 5 + x + 1, y * 5 + x + 6, y * 5 + x + 5] for y in range(4) for x in range(4)]
    triangles = fan(quads)
    np.testing.assert_allclose(vertex_normals(grid, triangles), np.tile([0, 0, 1.0], (25, 1)))
    distance = border_distance(grid, triangles, 9.0).reshape(5, 5)
    np.testing.assert_allclose(distance[2], [0, 1, 2, 1, 0], atol=1e-3)
    both = np.concatenate([triangles, triangles + 25])
    count, piece = components(both, 50)
    assert count == 2
    assert piece[0] != piece[25]


def test_closed_mesh_has_no_border() -> None:
    corners = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1.0)])
    faces = np.array([(0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)])
    assert (border_distance(corners, faces, 5.0) == 5).all()


@pytest.fixture(scope="module")
def plane() -> SurfaceSamples:
    corners = np.array([(-10, -10, 0), (10, -10, 0), (10, 10, 0), (-10, 10, 0.0)])
    return SurfaceSamples(corners, np.array([(0, 1, 2), (0, 2, 3)]), count=20_000)


def test_push_out_lifts_only_what_is_too_low(plane: SurfaceSamples) -> None:
    got = plane.push_out(np.array([(0, 0, -0.5), (1, 1, 0.05), (2, 2, 3.0), (0, 0, -9.0)]), clearance=0.2)
    np.testing.assert_allclose(got[:, 2], [0.2, 0.2, 3.0, -9.0], atol=1e-6)


def test_binding_gives_the_point_back(plane: SurfaceSamples) -> None:
    points = np.array([(1.0, 2.0, 0.4), (-7.0, 3.0, 1.0)])
    bound = plane.bind(points, np.arange(20_000), np.array([50, 60]))
    corners = np.array([(-10, -10, 0), (10, -10, 0), (10, 10, 0), (-10, 10, 0.0)])
    on_surface = (corners[bound["bind_vert"]] * bound["bind_bary"][..., None]).sum(1)
    np.testing.assert_allclose(on_surface + bound["bind_offset"], points, atol=0.03)
    np.testing.assert_allclose(bound["bind_normal_offset"], [0.4, 1.0], atol=1e-2)
    assert set(bound["bind_tri"]) <= {50, 60}
