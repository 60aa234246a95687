"""Keys of the store: documentation changes none, code and inputs change theirs, and a stage has only its own code."""

import gc
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from liveavatar import paths
from tasks import enhance, features, ingest, plan, prompt, quality
from tasks.store.keys import code_digest, code_parts, job_key, sources_of, stage_key

CODE = '''"""Module."""

import math
from functools import cache

LIMIT = 4
NAMES = ("a", "b")


class Box:
    """A box."""

    side: int = 3

    def area(self, scale: float = 1.0) -> float:
        """Area."""
        return scale * self.side**2


@cache
def twice(x: int) -> int:
    """Double."""
    return 2 * x


def nothing() -> None:
    """Do nothing."""
'''


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository."""
    monkeypatch.setattr(paths, "REPO_ROOT", tmp_path)
    (tmp_path / "liveavatar").mkdir()
    return tmp_path


def digest_of(text: str, root: Path) -> str:
    """The digest of a source file's syntax; files are read once a process, so each text has its own module."""
    name = f"code_{hashlib.sha256(text.encode()).hexdigest()}"
    (root / "liveavatar" / f"{name}.py").write_text(text)
    return code_parts(f"liveavatar.{name}")[f"liveavatar/{name}.py"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('"""Module."""', '"""Another text."""', id="docstring of the module"),
        pytest.param('"""Module."""', "", id="no docstring"),
        pytest.param('    """A box."""', '    """A box\n\n    of cardboard.\n    """', id="docstring of a class"),
        pytest.param('"""Area."""', '"""Area, square metres."""', id="docstring of a method"),
        pytest.param("side: int = 3\n", 'side: int = 3\n    """Length."""\n', id="text below a field"),
        pytest.param('    """Do nothing."""', "    pass", id="an empty function"),
        pytest.param("LIMIT = 4", "LIMIT = 4  # of all", id="comment"),
        pytest.param("2 * x", "(2 * x)", id="brackets"),
        pytest.param('("a", "b")', "('a',\n    'b')", id="layout"),
    ],
)
def test_documentation_changes_no_digest(root: Path, old: str, new: str) -> None:
    assert old in CODE
    assert digest_of(CODE.replace(old, new), root) == digest_of(CODE, root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("LIMIT = 4", "LIMIT = 5", id="constant"),
        pytest.param("LIMIT = 4", "LIMIT = 4.0", id="type of a constant"),
        pytest.param("scale: float = 1.0", "scale: float = 2.0", id="default"),
        pytest.param("side: int = 3", "side: int = 4", id="field"),
        pytest.param("@cache\n", "", id="decorator"),
        pytest.param("2 * x", "x * 2", id="order of operands"),
        pytest.param("def twice", "def double", id="name"),
        pytest.param('("a", "b")', '("b", "a")', id="order of values"),
        pytest.param(
            "import math\nfrom functools import cache", "from functools import cache\nimport math", id="order"
        ),
        pytest.param('"""Double."""', '_ = """Double."""', id="a text that is a value"),
    ],
)
def test_a_change_of_code_changes_the_digest(root: Path, old: str, new: str) -> None:
    assert old in CODE
    assert digest_of(CODE.replace(old, new), root) != digest_of(CODE, root)


@pytest.fixture
def tree(root: Path) -> Path:
    """A repository whose `liveavatar.run` imports in every way there is."""
    files = {
        "__init__.py": "from liveavatar.other import everything",
        "other.py": "",
        "run.py": "import math\nfrom liveavatar import settings\ndef run():\n    from liveavatar.room.part import go",
        "settings.py": "import liveavatar.deep.inner.file",
        "room/__init__.py": "from liveavatar import register",
        "room/part.py": "",
        "register.py": "",
        "deep/__init__.py": "",
        "deep/inner/__init__.py": "",
        "deep/inner/file.py": "import json",
        "deep/inner/beside.py": "",
    }
    for name, text in files.items():
        path = root / "liveavatar" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "liveavatar"


def test_code_follows_imports_in_functions_and_the_packages_around_them(tree: Path) -> None:
    names = {path.relative_to(tree).as_posix() for path in sources_of("liveavatar.run")}
    assert names == {
        *("run.py", "settings.py", "register.py", "room/__init__.py", "room/part.py"),
        *("deep/__init__.py", "deep/inner/__init__.py", "deep/inner/file.py"),
    }
    assert {"room/__init__.py", "register.py"} < {
        path.relative_to(tree).as_posix() for path in sources_of("liveavatar.room.part")
    }


@pytest.mark.parametrize(
    ("left_out", "gone"),
    [
        pytest.param("liveavatar.room", {"room/__init__.py", "room/part.py", "register.py"}, id="a room"),
        pytest.param("liveavatar.deep.inner.file", {"deep/inner/file.py"}, id="a module, not the packages around it"),
        pytest.param("liveavatar.set", set(), id="the beginning of a name"),
        pytest.param("liveavatar.run", set(), id="what is asked for"),
    ],
)
def test_code_is_left_out_with_all_that_only_it_imports(tree: Path, left_out: str, gone: set[str]) -> None:
    whole, part = sources_of("liveavatar.run"), sources_of("liveavatar.run", left_out=[left_out])
    assert {path.relative_to(tree).as_posix() for path in whole - part} == gone
    assert part <= whole
    before = stage_key("s", {}, ["liveavatar.run"])
    assert set(stage_key("s", {}, ["liveavatar.run"], left_out=[left_out]).code) == set(before.code) - {
        f"liveavatar/{name}" for name in gone
    }


def test_a_file_that_moved_is_other_code(tree: Path) -> None:
    before = code_digest("liveavatar.other")
    assert before == code_digest("liveavatar.other")
    assert before != code_digest("liveavatar.register"), "equal text, another name"


def test_a_missing_module_is_no_silent_change(tree: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no source file"):
        code_parts("liveavatar.nothing")


def test_key_depends_on_every_part() -> None:
    base = {"a": 1, "b": "x"}
    made = {job_key("s", **base), job_key("t", **base), job_key("s", a=2, b="x"), job_key("s", a=1, b="x", c=None)}
    assert len(made) == 4
    assert job_key("s", a=1, b="x") == job_key("s", b="x", a=1)


def test_a_stage_key_depends_on_stage_inputs_code_and_packages() -> None:
    base = stage_key("s", {"seed": 1}, ["liveavatar.timing"], ["numpy"])
    others = [
        stage_key("t", {"seed": 1}, ["liveavatar.timing"], ["numpy"]),
        stage_key("s", {"seed": 2}, ["liveavatar.timing"], ["numpy"]),
        stage_key("s", {"seed": 1}, ["liveavatar.errors"], ["numpy"]),
        stage_key("s", {"seed": 1}, ["liveavatar.timing"], ["scipy"]),
    ]
    assert len({key.digest for key in (base, *others)}) == 5
    assert base.packages["numpy"] != "absent"
    assert stage_key("s", {"size": (1, 2)}, []).inputs == {"size": [1, 2]}, "as JSON gives it back"


ROOMS = {  # rooms and top-level files of the engine that each stage may run
    "sound": (ingest.SOUND_CODE, {"audio", "media"}),
    "portrait": (ingest.PORTRAIT_CODE, {"face", "media"}),
    "pose": (ingest.POSE_CODE, {"face", "media", "pose"}),
    "enhance": (enhance.CODE, {"audio", "checkpoints", "media"}),
    "features": ((*features.CODE, "liveavatar.audio.encoders.whisper"), {"audio", "checkpoints", "media"}),
    "prompt": (prompt.CODE, {"prompt"}),
    "quality": (quality.CODE, {"audio", "face", "media", "quality"}),
}
SHARED = {"config", "errors", "files", "paths", "timing"}


@pytest.mark.parametrize("stage", ROOMS)
def test_a_stage_has_no_code_of_rooms_that_it_does_not_use(stage: str) -> None:
    modules, allowed = ROOMS[stage]
    rooms = {Path(path).parts[1].removesuffix(".py") for path in code_parts(*modules)}
    assert rooms <= allowed | SHARED


def test_a_plan_may_run_everything_but_quality_and_training() -> None:
    rooms = {Path(path).parts[1] for path in code_parts(*plan.CODE, left_out=plan.LEFT_OUT)}
    assert not rooms & {"quality", "training", "bench", "parity", "report", "prompt"}


def test_jobs_beside_one_another_read_sources(root: Path) -> None:
    names = [f"part{n}" for n in range(8)]
    for name in names:
        (root / "liveavatar" / f"{name}.py").write_text(f"{name} = " + "(1, [2, {3: f(4)}]), " * 2000)

    def switch(*_: object) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(switch)  # collections come while trees are made, and let another thread go on
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(len(names)) as threads:
            assert len(set(threads.map(code_digest, [f"liveavatar.{name}" for name in names]))) == len(names)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(switch)
