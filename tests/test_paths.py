"""Folders of the product, the variables that move them, and that nobody else spells either."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from liveavatar import paths
from liveavatar.errors import InputError

SOURCES = sorted(p for room in ("flows", "tasks", "liveavatar") for p in (paths.REPO_ROOT / room).rglob("*.py"))
OURS = paths.REPO_ROOT / "liveavatar" / "paths.py"
# Writing a folder's name anywhere else means that two places know where it lies.
SPELLED = re.compile(r"""(?<!_)home\(\)\s*/|\.liveavatar\b["'/]|["']last-error\.txt["']|["']ray_token["']""")
READ = re.compile(r"""environ(\.get\(|\[|\.setdefault\()\s*["']LIVEAVATAR_|getenv\(\s*["']LIVEAVATAR_""")


@pytest.mark.parametrize("pattern", [pytest.param(SPELLED, id="folder names"), pytest.param(READ, id="variables")])
def test_only_this_module_knows(pattern: re.Pattern[str]) -> None:
    assert pattern.search(OURS.read_text())
    found = [str(path) for path in SOURCES if path != OURS and pattern.search(path.read_text())]
    assert not found, "ask liveavatar.paths"


@pytest.mark.parametrize(
    ("there", "writable", "expected"),
    [
        pytest.param(False, ".", "out", id="a folder of the user's"),
        pytest.param(False, "", "home/out", id="a folder that may not be written, as in a container"),
        pytest.param(True, "out", "out", id="a folder of which only out may be written"),
        pytest.param(True, ".", "home/out", id="an out of somebody else"),
    ],
)
def test_videos_go_where_the_user_may_write(
    there: bool, writable: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIVEAVATAR_HOME", "home")
    monkeypatch.setattr("os.access", lambda path, _: str(path) == writable)
    if there:
        (tmp_path / "out").mkdir()
    assert paths.outputs() == Path(expected)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        pytest.param(paths.store, "store", id="artefacts"),
        pytest.param(paths.work, "work", id="renders under way"),
        pytest.param(paths.digests, "digests", id="file digests"),
        pytest.param(paths.prompts, "prompts", id="prompt embeddings"),
        pytest.param(paths.speeds, "speed", id="CPU speeds"),
        pytest.param(paths.converted_whisper, "whisper", id="converted Whisper"),
        pytest.param(paths.golden_runs, "golden", id="golden jobs"),
        pytest.param(paths.prefect_home, "prefect", id="Prefect"),
        pytest.param(paths.run, "run", id="running servers"),
        pytest.param(paths.ray_token, "ray_token", id="token"),
        pytest.param(paths.inputs, "inputs", id="files of the studio page"),
        pytest.param(paths.page_token, "page_token", id="token of the studio page"),
        pytest.param(paths.counters, "counters.json", id="counters of renders"),
        pytest.param(paths.last_error, "last-error.txt", id="last error"),
        pytest.param(paths.models_home, "models", id="checkpoints"),
    ],
)
def test_below_home(folder: Callable[[], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    monkeypatch.delenv("LIVEAVATAR_MODELS", raising=False)
    assert folder() == tmp_path / name
    assert not list(tmp_path.iterdir()), "asking creates nothing"


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        pytest.param("LIVEAVATAR_MODELS", paths.models_home, id="checkpoints"),
        pytest.param("LIVEAVATAR_WHISPER", paths.whisper_home, id="Whisper"),
    ],
)
def test_variables_move_folders(
    variable: str, folder: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    assert folder() == tmp_path


def test_the_second_tier_is_what_its_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_STORE_URL", "s3://bucket")
    assert paths.store_url() == "s3://bucket"
    monkeypatch.setenv("LIVEAVATAR_STORE_URL", "")
    assert paths.store_url() is None


def test_a_form_of_the_log_is_text_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, form in (("", "text"), ("json", "json")):
        monkeypatch.setenv("LIVEAVATAR_LOG", given)
        assert paths.log_format() == form
    monkeypatch.setenv("LIVEAVATAR_LOG", "xml")
    with pytest.raises(InputError, match="give text or json"):
        paths.log_format()


def test_home_lies_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEAVATAR_HOME", raising=False)
    assert paths.home() == paths.REPO_ROOT / ".liveavatar"


def test_home_of_an_installed_package_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEAVATAR_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(paths, "is_checkout", lambda: False)
    assert paths.home() == tmp_path / "liveavatar"


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "MODELS", "WHISPER", "STORE_GB"):
        monkeypatch.setenv(f"LIVEAVATAR_{name}", "")
    assert paths.home() == paths.REPO_ROOT / ".liveavatar"
    assert paths.models_home() == paths.home() / "models"
    assert paths.whisper_home() != Path()
    assert paths.store_bytes() == 20_000_000_000


@pytest.mark.parametrize("value", ["abc", "20 GB", "nan", "inf"])
def test_a_store_limit_that_is_no_number_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_STORE_GB", value)
    with pytest.raises(InputError, match=f"LIVEAVATAR_STORE_GB='{value}' is no number"):
        paths.store_bytes()


def test_a_store_limit_below_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_STORE_GB", "-5")
    with pytest.raises(InputError, match="LIVEAVATAR_STORE_GB='-5' is less than nothing"):
        paths.store_bytes()


def test_whisper_home_is_where_whisper_downloads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEAVATAR_WHISPER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.whisper_home() == tmp_path / "whisper"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("", False, id="empty"),
        pytest.param("0", False, id="zero"),
        pytest.param("1", True, id="one"),
    ],
)
def test_debugging(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_DEBUG", value)
    assert paths.debugging() is expected


def test_store_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEAVATAR_STORE_GB", raising=False)
    assert paths.store_bytes() == 20_000_000_000
    monkeypatch.setenv("LIVEAVATAR_STORE_GB", "0.5")
    assert paths.store_bytes() == 500_000_000


def test_a_render_key_is_cut_to_a_folder_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    assert paths.work_folder("0123456789abcdef" * 4) == tmp_path / "work" / ("0123456789abcdef" * 2)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.name)
        for p in (paths.MINI_DIR, paths.LANDMARK_BUNDLE, paths.EVALUATION_SPLIT, paths.BENCHMARKS,
                  paths.GOLDEN_BASELINES, paths.DEPLOYMENTS)
    ],
)  # fmt: skip
def test_files_of_the_repository_are_there(path: Path) -> None:
    assert path.exists()
