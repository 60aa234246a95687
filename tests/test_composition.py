"""Variants are handed in: no class derives from the engine, its parts, its actor or the render loop."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SEALED = {"Engine", "Stream", "Denoiser", "PlainDenoiser", "FastDenoiser", "RenderRun", "EngineActor"}


def test_no_class_derives_from_a_sealed_one() -> None:
    derived = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for room in ("liveavatar", "tasks", "flows", "tests")
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).split(".")[-1] in SEALED
    ]
    assert not derived


def test_the_engine_does_not_import_the_fast_path_or_groups() -> None:
    for path in sorted((ROOT / "liveavatar" / "engine").glob("*.py")):
        text = path.read_text()
        assert "liveavatar.fast" not in _imports(text), path
        assert "liveavatar.distributed" not in _imports(text), path


def _imports(text: str) -> str:
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(ast.unparse(node) for node in nodes)
