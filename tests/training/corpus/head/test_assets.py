"""Arrays of the head file built from a toy model, as the renderer reads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from liveavatar.errors import InputError
from liveavatar.training.corpus.head.assets import (
    LANDMARKS68,
    PART_NAMES,
    PART_STARTS,
    SHELLS,
    build_head,
    sparse_deltas,
)

ASSETS = Path(__file__).parents[1] / "head_assets"
STARTS = tuple(range(0, 4 * 19 + 1, 4))  # 19 parts of one square each


def write_model(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    neutral = rng.uniform(-5, 5, (76, 3)).round(3)
    faces = [f"f {4 * k + 1}/1 {4 * k + 2}/2 {4 * k + 3}/3 {4 * k + 4}/4" for k in range(19)]

    def write(name: str, vertices: np.ndarray) -> None:
        lines = [f"v {x} {y} {z}" for x, y, z in vertices] + ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", *faces]
        (folder / f"{name}.obj").write_text("\n".join(lines))

    write("generic_neutral_mesh", neutral)
    for k in range(3):
        write(f"identity{k:03d}", neutral + (k + 1) * 0.25)
    jaw = neutral.copy()
    jaw[8:12] += [0, -1.5, 0]
    jaw[70:74] += [0, 0.001, 0]  # below the smallest move
    write("jawOpen", jaw)
    write("eyeBlink_L", neutral + np.eye(76)[:, :1] * [0.5, 0, 0])
    return neutral


def test_build_head(tmp_path: Path) -> None:
    neutral = write_model(tmp_path / "m")
    head = build_head(tmp_path / "m", STARTS, landmarks=(0, 9, 75))
    shell_vertices = 4 * len(SHELLS)
    assert head["vertices"].shape == (76 - shell_vertices, 3)
    assert head["faces"].shape == (2 * (19 - len(SHELLS)), 3)
    np.testing.assert_allclose(head["vertices"], neutral[head["original_vertex"]], atol=1e-5)
    np.testing.assert_array_equal(head["original_vertex"][head["landmarks68"]], [0, 9, 75])
    assert head["expr_names"].tolist() == ["eyeBlink_L", "jawOpen"]
    np.testing.assert_allclose(head["identity"][:, 0, 0], [0.25, 0.5, 0.75], atol=1e-3)
    jaw = slice(head["expr_offset"][1], head["expr_offset"][2])
    assert head["expr_index"][jaw].tolist() == [8, 9, 10, 11]
    np.testing.assert_allclose(head["expr_delta"][jaw], [[0, -1.5, 0]] * 4, atol=1e-3)
    assert set(head["face_part"]) == set(range(19)) - set(SHELLS)
    assert (head["vertex_part"][head["faces"]] == head["face_part"][:, None]).all()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(lambda m: (m / "generic_neutral_mesh.obj").unlink(), "missing", id="no neutral"),
        pytest.param(lambda m: [p.unlink() for p in m.glob("identity*")], "full clone", id="no identities"),
        pytest.param(lambda m: (m / "jawOpen.obj").write_text("v 0 0 0\n"), "1 vertices", id="another topology"),
    ],
)
def test_damaged_clone(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    write_model(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=words):
        build_head(tmp_path, STARTS, landmarks=(0,))


def test_wrong_model_size(tmp_path: Path) -> None:
    write_model(tmp_path)
    with pytest.raises(InputError, match="76 vertices, not 26719"):
        build_head(tmp_path)


def test_sparse_deltas_give_the_dense_ones_back() -> None:
    dense = np.zeros((3, 20, 3), np.float32)
    dense[0, [3, 7]] = 1
    dense[2, 19] = [0.5, 0, -2]
    packed = sparse_deltas(dense)
    again = np.zeros_like(dense)
    for k in range(3):
        rows = slice(packed["expr_offset"][k], packed["expr_offset"][k + 1])
        again[k, packed["expr_index"][rows]] = packed["expr_delta"][rows]
    np.testing.assert_array_equal(again, dense)


def test_tables() -> None:
    assert len(PART_STARTS) == len(PART_NAMES) + 1
    assert len(LANDMARKS68) == len(set(LANDMARKS68)) == 68


def test_tables_are_those_of_the_built_head() -> None:
    with np.load(ASSETS / "ict_facekit.npz") as built:
        assert tuple(built["original_vertex"][built["landmarks68"]].tolist()) == LANDMARKS68
        assert tuple(built["part_names"].tolist()) == PART_NAMES
        part = np.searchsorted(PART_STARTS, built["original_vertex"], "right") - 1
        assert (part == built["vertex_part"]).all()
