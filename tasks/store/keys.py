"""Keys of the artefact store: the digest of everything that a stage's result depends on.

A key has four parts: the stage's name, its inputs (digests of the bytes it reads, and its parameters), the source
files that it runs, and the versions of the packages that can change its result. Source files count as syntax:
comments, layout and docstrings may change without making anything again. An entry keeps the parts of its key, so
that the difference between two runs has a name (`tasks.store.changes`).

The root package's `__init__` is no part of a key: it holds the library's public names and version, and modules
import from the files that define them.
"""

import ast
import hashlib
import importlib.metadata
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from liveavatar import paths

LAYOUT = 2  # version of the store's own layout, part of every key
ROOT = "liveavatar"
# One thread at a time: Python 3.11 counts the depth of all trees under way as of one, and raises SystemError.
_PARSING = threading.Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class StageKey:
    """Parts of a stage's key; `stage_key` makes one."""

    stage: str
    inputs: dict[str, Any]  # digests and parameters as JSON holds them
    code: dict[str, str]  # source file, relative to the repository -> digest of its syntax
    packages: dict[str, str]  # distribution -> version

    @property
    def digest(self) -> str:
        """The key in the store, 64 hex digits."""
        return job_key(self.stage, **self.made_from())

    def made_from(self) -> dict[str, Any]:
        """Return the parts, as the store and manifest.json record them."""
        return {"inputs": self.inputs, "code": self.code, "packages": self.packages}


def stage_key(
    stage: str,
    inputs: dict[str, Any],
    code: Iterable[str],
    packages: Iterable[str] = (),
    left_out: Iterable[str] = (),
) -> StageKey:
    """Make the key of one run of a stage.

    Args:
        stage: its name.
        inputs: digests and parameters, JSON-serialisable.
        code: modules that the result depends on; what they import counts too.
        packages: distributions whose version can change the result.
        left_out: modules and rooms that `code` may import and this run does not use.

    Raises:
        FileNotFoundError: there is no such module; a stage would silently depend on less than it should.
    """
    as_json = json.loads(json.dumps(inputs))
    parts = code_parts(*code, left_out=left_out)
    return StageKey(stage=stage, inputs=as_json, code=parts, packages=package_versions(packages))


def job_key(kind: str, **parts: Any) -> str:
    """Compute the sha256 over named parts, which must be JSON-serialisable."""
    text = json.dumps({"layout": LAYOUT, "kind": kind, **parts}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def code_digest(*modules: str) -> str:
    """Compute the sha256 over the syntax of modules and of everything of ours that they import.

    Raises:
        FileNotFoundError: there is no such module.
    """
    return hashlib.sha256(json.dumps(code_parts(*modules), sort_keys=True).encode()).hexdigest()


@cache
def _code_parts(modules: tuple[str, ...], left_out: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    sources = sorted(sources_of(*modules, left_out=left_out))
    return tuple((path.relative_to(paths.REPO_ROOT).as_posix(), _read(path).digest) for path in sources)


def code_parts(*modules: str, left_out: Iterable[str] = ()) -> dict[str, str]:
    """Compute the digest of the syntax of each source file of `sources_of`, by its path in the repository.

    Raises:
        FileNotFoundError: there is no such module.
    """
    return dict(_code_parts(modules, tuple(left_out)))


def sources_of(*modules: str, left_out: Iterable[str] = ()) -> set[Path]:
    """List source files of modules and of what they import of the engine, imports in functions and packages too.

    Args:
        modules: names.
        left_out: modules and packages whose files, and what only those import, are not listed.

    Raises:
        FileNotFoundError: there is no such module.
    """
    waiting = [_source(module) for module in modules]
    if None in waiting:
        raise FileNotFoundError(f"no source file for one of {', '.join(modules)} below {paths.REPO_ROOT}")
    unused = tuple(left_out)
    sources: set[Path] = set()
    waiting += [_source(package) for module in modules for package in _packages(module)]
    while waiting:
        path = waiting.pop()
        if path is None or path in sources:
            continue
        sources.add(path)
        waiting += [_source(name) for name in _read(path).imports if not _is_within(name, unused)]
    return sources


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Read the installed versions of packages; "absent" for those that are not there."""
    return {name: _version(name) for name in names}


@dataclass(frozen=True, slots=True)
class _Module:
    """Facts of one source file."""

    digest: str
    imports: frozenset[str]


@cache
def _read(path: Path) -> _Module:
    with _PARSING:
        tree = ast.parse(path.read_bytes())
    imports = frozenset(_imported(tree))
    return _Module(_digest(tree), imports)


def _digest(tree: ast.Module) -> str:
    """Compute the sha256 over a syntax tree without docstrings; it has no comments and no layout."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(statement: ast.AST) -> bool:
    """Tell if a statement is a bare string: a docstring, or the note below a field."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _imported(tree: ast.Module) -> set[str]:
    """List modules of the engine that a source file may import, with the packages around them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if _is_ours(alias.name)}
        elif isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
            module = str(node.module)
            names |= {f"{module}.{alias.name}" for alias in node.names}
            if module != ROOT or any(_source(f"{ROOT}.{alias.name}") is None for alias in node.names):
                names.add(module)
    return names | {package for name in names for package in _packages(name)}


def _is_ours(module: str) -> bool:
    return module == ROOT or module.startswith(f"{ROOT}.")


def _is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _packages(module: str) -> set[str]:
    """List packages that importing a module runs, the root aside."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(2, len(parts))}


def _source(module: str) -> Path | None:
    base = paths.REPO_ROOT.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
