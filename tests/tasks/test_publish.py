"""Publishing: one run at a time below a folder, whatever store it came from, and what stands there is whole."""

import errno
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tasks import publish
from tasks.manifest import Results
from tasks.publish import publishing_lock, stages_before
from tasks.run_folder import MANIFEST
from tasks.store.store import Entry, Store


def test_runs_with_different_stores_publish_one_after_another(tmp_path: Path) -> None:
    folder, inside, together = tmp_path / "out", [], []

    def run(number: int) -> None:
        with publishing_lock(folder):
            inside.append(number)
            together.append(len(inside))
            time.sleep(0.1)
            inside.remove(number)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(run, range(3)))
    assert together == [1, 1, 1]
    assert not list(folder.iterdir()), "a lock leaves no file among the runs"


@pytest.mark.parametrize(
    ("before", "renames"),
    [
        pytest.param(None, 1, id="nothing there"),
        pytest.param([], 1, id="a claimed folder is never away"),
        pytest.param(["old.txt"], 3, id="an older run goes"),
    ],
)
def test_a_run_takes_its_place(
    before: list[str] | None, renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = tmp_path / "out", tmp_path / "made.txt"
    made.write_text("new")
    if before is not None:
        out.mkdir()
    for name in before or ():
        (out / name).touch()
    if before:
        (out / "manifest.json").write_text(json.dumps({"outputs": dict.fromkeys(before)}))
    calls, rename = [], os.rename

    def counted(*paths: Any) -> None:
        calls.append(paths)
        rename(*paths)

    monkeypatch.setattr(publish, "products_of", lambda _: {"sub/made.txt": made})
    monkeypatch.setattr("liveavatar.report.page.write_report", lambda *_, **__: None)
    monkeypatch.setattr(os, "rename", counted)
    publish.replace_folder(out, None, {}, {})  # type: ignore[arg-type]
    assert len(calls) == renames
    files = [p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()]
    assert sorted(files) == ["manifest.json", "report.json", "sub/made.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made.txt", "out"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Publish a run with the files `live/a` and `video` into the folder `out`."""
    for name in ("a", "video"):
        (tmp_path / name).write_text("new")
    monkeypatch.setattr(publish, "products_of", lambda _: {"live/a": tmp_path / "a", "video": tmp_path / "video"})
    monkeypatch.setattr("liveavatar.report.page.write_report", lambda *_, **__: None)
    manifest = {"outputs": {"live/a": "", "video": "", "old": ""}}

    def make() -> None:
        publish.replace_folder(tmp_path / "out", None, {}, manifest)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "copies"])
def test_files_of_the_user_are_kept(
    links: bool, run: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refused(*_: Any, **__: Any) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refused)
    out = tmp_path / "out"
    run()
    (out / "old").write_text("of the run before")
    (out / "mine" / "deep").mkdir(parents=True)
    (out / "mine" / "deep" / "notes.txt").write_text("mine")
    (out / "link").symlink_to(tmp_path)
    for _ in range(2):
        run()
    found = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if not p.is_dir() or p.is_symlink()}
    assert set(found) == {"live/a", "link", "manifest.json", "mine/deep/notes.txt", "report.json", "video"}
    assert found["mine/deep/notes.txt"].read_text() == "mine"
    assert found["link"].readlink() == tmp_path
    assert not list(tmp_path.glob(".out.*"))


def test_a_file_of_the_user_whose_name_the_run_needs_is_kept_beside_it(run: Callable[[], None], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "video").write_text("mine")
    for _ in range(2):
        run()
    assert sorted(p.name for p in out.iterdir()) == ["live", "manifest.json", "report.json", "video", "video.kept"]
    assert ((out / "video").read_text(), (out / "video.kept").read_text()) == ("new", "mine")


@pytest.mark.parametrize("manifest", [None, "", '{"outputs": {"video": '], ids=["lost", "empty", "cut short"])
def test_a_run_whose_manifest_is_damaged_goes_and_files_of_the_user_stay(
    manifest: str | None, run: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))

    def make(folder: Path) -> dict[str, Any]:
        (folder / "video.mp4").write_text("of the run before")
        return {}

    Store().build("render", "ab" * 32, make)
    out = tmp_path / "out"
    run()
    for name in ("video", "live/b", "mine.mp4"):
        (out / name).write_text("of the run before")
    (out / "live/a").write_text("mine")
    (out / "manifest.json").unlink()
    if manifest is not None:
        (out / "manifest.json").write_text(manifest)
    run()
    found = {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()}
    del found["manifest.json"], found["report.json"]
    mine = {"live/a.kept": "mine", "mine.mp4": "of the run before"}
    assert found == {"video": "new", "live/a": "new", **mine}


def test_files_of_the_user_survive_a_kill_between_the_renames(run: Callable[[], None], tmp_path: Path) -> None:
    out, grave, other = tmp_path / "out", tmp_path / ".out.0123abcd.old", tmp_path / ".out.my-notes-of-it"
    half_built = tmp_path / ".out.0123abcd"
    half_built.mkdir()
    (half_built / "half").touch()
    run()
    (out / "notes.txt").write_text("mine")
    out.rename(grave)
    other.mkdir()
    run()
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "half").exists()
    assert not grave.exists()
    assert not half_built.exists()
    assert other.is_dir(), "a folder of the user's with a similar name"


def parts(seed: int, sound: str = "a") -> dict[str, Any]:
    return {"inputs": {"settings": {"seed": seed}, "sound": sound, "portrait": sound}, "code": {}, "packages": {}}


def results(**hits: bool) -> Results:
    """Results of a run with these stages; whether each was in the store."""
    entries = {
        kind: Entry(kind=kind, key="now", folder=Path(), files={}, made_from=parts(1), hit=hit)
        for kind, hit in hits.items()
    }
    return cast(Results, SimpleNamespace(entries=lambda: entries))


def test_a_stage_is_compared_with_the_run_in_the_folder_or_with_the_closest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    store, out = Store(), tmp_path / "out"
    for age, (key, made_from) in enumerate({"unrelated": parts(2, "b"), "near": parts(2), "now": parts(1)}.items()):
        made = store.build("render", key, lambda _: {}, made_from=made_from)
        os.utime(made.folder / "entry.json", (1e9 - age, 1e9 - age))
    assert stages_before(results(render=False), out) == {"render": parts(2)}
    assert stages_before(results(render=True, quality=False), out) == {}, "nothing ran that ran before"
    out.mkdir()
    (out / MANIFEST).write_text(json.dumps({"stages": {"render": parts(3)}}))
    assert stages_before(results(render=False), out) == {"render": parts(3)}


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        pytest.param("He said *no*, twice.", r"He said \*no\*, twice.", id="emphasis"),
        pytest.param("<script>alert(1)</script>", r"&lt;script&gt;alert\(1\)&lt;/script&gt;", id="a tag"),
        pytest.param("[a](javascript:b)", r"\[a\]\(javascript\:b\)", id="a link"),
        pytest.param("![](http://a/b)\n# head", r"\!\[\]\(http\://a/b\) \# head", id="a picture and a heading"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, markdown: str) -> None:
    assert publish.escaped(text) == markdown
