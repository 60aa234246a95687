"""`render --from`: what is read from a manifest, what is refused, and how two runs are compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.again import compare, read_again
from flows.parameters import read_parameters
from liveavatar.errors import InputError
from tests.flows.cli.published import manifest_of, publish

KEY = "ab" * 32


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    publish(tmp_path / "run", render=KEY)
    return tmp_path / "run"


def test_the_options_of_a_run_are_a_form_again(out: Path) -> None:
    options, manifest = read_again(out, {"out": "again", "force": True})
    assert manifest == json.loads((out / "manifest.json").read_text())
    form = read_parameters(options)
    assert (form.seed, form.out, form.force, form.audio) == (7, "again", True, str(out.parent / "voice.wav"))
    assert read_again(out / "manifest.json", {})[1] == manifest


def test_inputs_that_moved_are_found_beside_the_manifest_or_named(out: Path, tmp_path: Path) -> None:
    (tmp_path / "voice.wav").rename(out / "voice.wav")
    assert read_again(out, {})[0]["audio"] == str(out / "voice.wav")
    (out / "voice.wav").rename(tmp_path / "moved.wav")
    with pytest.raises(InputError, match=r"voice\.wav is no longer at .* give it with --audio"):
        read_again(out, {})
    assert read_again(out, {"audio": str(tmp_path / "moved.wav")})[0]["audio"] == str(tmp_path / "moved.wav")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param({"seed": "3"}, "drop --seed", id="another option"),
        pytest.param({"image": "other.png"}, "--image other.png: it is not there, or not the file", id="another file"),
    ],
)
def test_a_run_that_would_not_be_the_same_is_refused(given: dict[str, Any], says: str, out: Path) -> None:
    with pytest.raises(InputError, match=says):
        read_again(out, given)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "no manifest of a run"),
        ("[]", "no manifest of a run"),
        ('{"parameters": {}, "inputs": {}}', "no manifest of a run"),
    ],
)
def test_what_is_no_manifest_is_refused(content: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=says):
        read_again(path, {})


def test_sound_of_a_pipe_cannot_come_again(out: Path) -> None:
    (out / "manifest.json").write_text(json.dumps(manifest_of(out, {"render": KEY}, audio="-")))
    with pytest.raises(InputError, match="through a pipe"):
        read_again(out, {})


def test_two_runs_are_compared(out: Path) -> None:
    before = manifest_of(out, {"sound": "1", "render": KEY})
    assert compare(before, before, cached=False) == (True, "same bits as the manifest: latents and video")
    assert "--force renders it anew" in compare(before, before, cached=True)[1]
    after = json.loads(json.dumps(before)) | {"latents_sha256": "2" * 64}
    same, line = compare(before, after, cached=False)
    assert (same, line.split("; ")[0]) == (False, "other bits than the manifest: latents differ, although nothing that "
                                           "is recorded does")  # fmt: skip
    after["stages"]["render"]["packages"] = {"torch": "2.14.0"}
    assert compare(before, after, cached=False)[1].endswith("latents differ; render: package torch 2.13.0 -> 2.14.0")


def test_an_option_of_another_version_is_named_as_one(out: Path) -> None:
    path = out / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["parameters"]["hologram"] = True
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="its option hologram is of another version"):
        read_again(out, {})
