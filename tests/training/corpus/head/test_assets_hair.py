"""Fitting: toy clothes on a toy body, strands on strips, and a warp between two ellipsoids."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.training.corpus.head.assets_hair import (
    Body,
    HeadFitter,
    apply_target,
    build_torso,
    fit_clothes,
    strand_coordinates,
)
from liveavatar.training.corpus.head.geometry import CROWN, CURLY, EYE_CENTRES, MERIDIAN
from liveavatar.training.corpus.head.meshes import ObjMesh, fan

BODY = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 2.0)])


def mesh_of(count: int) -> ObjMesh:
    return ObjMesh(vertices=np.zeros((count, 3)), uv=np.zeros((0, 2)), faces=[], faces_uv=[], groups=np.array([], str))


def test_fit_clothes(tmp_path: Path) -> None:
    path = tmp_path / "a.mhclo"
    path.write_text(
        "# comment\nname a\nz_scale 0 3 4.0\nverts 0\n2\n0 1 2 0.5 0.25 0.25\n0 1 2 1 0 0 0 0 1.0\ndelete_verts\n7\n"
    )
    got = fit_clothes(mesh_of(3), path, BODY)
    # The z offset of 1 counts half: the body's span is 2 where the asset was made on 4.
    np.testing.assert_allclose(got, [(0, 1, 0), (0.25, 0.25, 0), (0, 0, 0.5)])


def test_clothes_of_another_mesh(tmp_path: Path) -> None:
    path = tmp_path / "a.mhclo"
    path.write_text("verts 0\n1\n")
    with pytest.raises(InputError, match="1 of 5"):
        fit_clothes(mesh_of(5), path, BODY)


def test_targets_add(tmp_path: Path) -> None:
    path = tmp_path / "a.target.gz"
    with gzip.open(path, "wt") as file:
        file.write("# head\n1 0.5 0 -1\n\n3 0 2 0\n")
    vertices = BODY.copy()
    apply_target(path, 0.5, vertices)
    np.testing.assert_allclose(vertices - BODY, [(0, 0, 0), (0.25, 0, -0.5), (0, 0, 0), (0, 1, 0)])
    with pytest.raises(InputError, match="missing"):
        apply_target(tmp_path / "none", 1, vertices)


def strip(flip: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A hanging strip 1 cm wide and 8 cm long; its texture's v axis (u when flipped) runs down."""
    y, x = np.meshgrid(np.arange(9.0), [0.0, 1.0], indexing="ij")
    vertices = np.stack([x.ravel(), 13 - y.ravel(), np.zeros(18)], 1)
    uv = np.stack([x.ravel(), y.ravel() / 8], 1)
    quads = [[2 * k, 2 * k + 1, 2 * k + 3, 2 * k + 2] for k in range(8)]
    return vertices, uv[:, ::-1] if flip else uv, fan(quads)


@pytest.mark.parametrize("flip", [pytest.param(False, id="v runs down"), pytest.param(True, id="u runs down")])
def test_strip_coordinates_are_centimetres_along_it(flip: bool) -> None:
    vertices, uv, triangles = strip(flip)
    strand, mode = strand_coordinates(vertices, uv, triangles, "short01")
    np.testing.assert_allclose(strand[:, 1], 13 - vertices[:, 1], atol=1e-6)
    np.testing.assert_allclose(strand[:, 0], vertices[:, 0], atol=1e-6)
    assert not mode.any()


def ellipsoid(radii: tuple[float, float, float], rings: int = 24) -> tuple[np.ndarray, list[list[int]]]:
    theta, phi = np.meshgrid(
        np.linspace(0.05, np.pi - 0.05, rings), np.linspace(0, 2 * np.pi, 2 * rings + 1)[:-1], indexing="ij"
    )
    points = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1).reshape(-1, 3)
    m = 2 * rings
    quads = [
        [i * m + j, (i + 1) * m + j, (i + 1) * m + (j + 1) % m, i * m + (j + 1) % m]
        for i in range(rings - 1)
        for j in range(m)
    ]
    return points * radii, quads


@pytest.mark.parametrize(("style", "mode"), [("short01", MERIDIAN), ("afro01", CURLY)])
def test_caps_take_meridians_or_curls(style: str, mode: int) -> None:
    points, quads = ellipsoid((8.0, 9.0, 9.0))
    points = points + np.array(CROWN) - [0, 9, 0]
    uv = np.random.default_rng(0).random((len(points), 2))
    _, got = strand_coordinates(points, uv, fan(quads), style)
    assert (got == mode).all()


@pytest.fixture(scope="module")
def fitter() -> HeadFitter:
    points, quads = ellipsoid((8.0, 12.0, 10.0))
    triangles = fan(quads)
    return HeadFitter(
        {"vertices": points, "faces": triangles, "face_part": (points[triangles].mean(1)[:, 2] < 0).astype(np.uint8)}
    )


@pytest.fixture(scope="module")
def body() -> Body:
    """The same head in decimetres, with a bump, and eyes where the ICT head has them."""
    points, quads = ellipsoid((0.8, 1.2, 1.0))
    bump = np.exp(-((points - [0, 1.1, 0.3]) ** 2).sum(1) / 0.1)
    points = points * (1 + 0.08 * bump[:, None])
    eyes = np.array(EYE_CENTRES)[:, None] / 10 + np.array([(0, 0.1, 0), (0, -0.1, 0), (0.1, 0, 0)])
    n = len(points)
    tights, cloth_quads = ellipsoid((1.6, 1.6, 1.4), 12)
    tights = tights - [0, 2.6, 0]
    faces = [*quads, [n, n + 1, n + 2], [n + 3, n + 4, n + 5], *[[i + n + 6 for i in q] for q in cloth_quads]]
    groups = ["body"] * len(quads) + ["helper-l-eye", "helper-r-eye"] + ["helper-tights"] * len(cloth_quads)
    vertices = np.concatenate([points, eyes.reshape(-1, 3), tights])
    mesh = ObjMesh(
        vertices=vertices, uv=np.zeros((0, 2)), faces=faces, faces_uv=[[]] * len(faces), groups=np.array(groups)
    )
    return Body(mesh=mesh, vertices=vertices)


def test_warp_brings_the_body_onto_the_head(fitter: HeadFitter, body: Body) -> None:
    on_body = body.vertices[body.group("body")]
    scale, shift = fitter.align(body)
    upper = on_body[:, 1] > 0.7
    before, _ = fitter.samples.nearest((on_body * scale + shift)[upper])
    after, _ = fitter.samples.nearest(fitter.warp(body)(on_body)[upper])
    assert scale == pytest.approx([10, 10, 10], rel=0.12)
    assert after.mean() < 0.5 * before.mean()


def test_torso_clears_the_skin(fitter: HeadFitter, body: Body) -> None:
    torso = build_torso(fitter, body)
    vertices = torso["vertices"].astype(float)
    assert vertices[:, 1].max() < 0
    assert torso["faces"].max() == len(vertices) - 1
    inside = ((vertices / [8.0, 12.0, 10.0]) ** 2).sum(1) < 1
    assert not inside.any()
