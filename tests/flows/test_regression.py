"""Comparing golden jobs: which differences pass, and how each is named."""

import base64
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from flows.regression import TOLERANCES, compare, pooled, print_verdict, regression, store_baseline, write_junit
from flows.regression_page import strip
from liveavatar.errors import InputError, Interrupted
from tests.media.videos import write

LATENTS = np.random.default_rng(0).normal(size=(1, 2, 3, 4, 5)).astype(np.float32)
MANIFEST = {
    "model": {"sha256": "m"},
    "latents_sha256": "l",
    "latents_shape": list(LATENTS.shape),
    "machine": "x86_64-avx2-2",
    "dtype": "float32",
    "packages": {"torch": "2.9.0+cpu"},
}
REPORT = {"status": "passed", "metrics": dict.fromkeys(TOLERANCES, 0.5) | {"lip_sync": None}}
ELSEWHERE = {"machine": "aarch64-base-8", "latents_sha256": "other"}


JOB = {"audio": "a.wav", "image": "a.png", "prompt": "A man talks."}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home, and a folder of golden jobs."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    monkeypatch.setattr("flows.regression.recorded", lambda make: None)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A golden folder with the baseline of one job."""
    LATENTS.tofile(tmp_path / "latents.bin")
    store_baseline(tmp_path, "job", MANIFEST, REPORT, tmp_path / "latents.bin")
    return tmp_path


def _compare(
    folder: Path, manifest: dict[str, Any], metrics: dict[str, Any], latents: np.ndarray, status: str = "passed"
) -> dict[str, dict[str, Any]]:
    latents.tofile(folder / "ours.bin")
    manifest = MANIFEST | {"latents_shape": list(latents.shape)} | manifest
    report = {"status": status, "metrics": REPORT["metrics"] | metrics}
    return {case["name"]: case for case in compare(folder, "job", manifest, report, folder / "ours.bin")}


def test_the_same_render_passes_every_case(folder: Path) -> None:
    cases = _compare(folder, {}, {}, LATENTS)
    assert cases.keys() == {"latents", "verdict", *TOLERANCES}
    assert all(case["passed"] for case in cases.values())
    assert cases["latents"]["how"] == "bit by bit"


@pytest.mark.parametrize(
    ("manifest", "latents", "passed", "how"),
    [
        pytest.param({"latents_sha256": "other"}, LATENTS, False, "bit by bit", id="other bits on the same machine"),
        pytest.param(ELSEWHERE, LATENTS, True, "as numbers", id="equal numbers on another machine"),
        pytest.param(ELSEWHERE, 1.05 * LATENTS, True, "as numbers", id="near numbers on another machine"),
        pytest.param(ELSEWHERE, 1.2 * LATENTS, False, "as numbers", id="far numbers on another machine"),
        pytest.param({"packages": {"torch": "3.0"}, "latents_sha256": "o"}, LATENTS, True, "torch-3.0", id="new torch"),
        pytest.param(ELSEWHERE, LATENTS[:, :1], False, "shape", id="another shape"),
    ],
)
def test_latents(folder: Path, manifest: dict[str, Any], latents: np.ndarray, passed: bool, how: str) -> None:
    case = _compare(folder, manifest, {}, latents.astype(np.float32))["latents"]
    assert (case["passed"], how in case["how"]) == (passed, True), case


@pytest.mark.parametrize(
    ("measure", "value", "passed"),
    [
        *(pytest.param(name, 0.5 + 0.99 * limit, True, id=f"{name} inside") for name, limit in TOLERANCES.items()
          if limit and name != "lip_sync"),
        *(pytest.param(name, 0.5 - 1.01 * limit - 1e-6, False, id=f"{name} outside")
          for name, limit in TOLERANCES.items()),
        pytest.param("identity_min", None, False, id="a measure is missing now"),
        pytest.param("lip_sync", None, True, id="missing in both"),
    ],
)  # fmt: skip
def test_measures(folder: Path, measure: str, value: float | None, passed: bool) -> None:
    cases = _compare(folder, {}, {measure: value}, LATENTS)
    assert [name for name, case in cases.items() if not case["passed"]] == ([] if passed else [measure])


def test_another_verdict_fails(folder: Path) -> None:
    case = _compare(folder, {}, {}, LATENTS, status="warned")["verdict"]
    assert (case["passed"], case["detail"]) == (False, "warned, baseline passed")


def test_a_changed_model_is_compared_no_further(folder: Path) -> None:
    (case,) = _compare(folder, {"model": {"sha256": "n"}}, {}, LATENTS).values()
    assert (case["name"], case["passed"]) == ("model", False)


def test_no_baseline_is_no_pass(tmp_path: Path) -> None:
    (case,) = _compare(tmp_path, {}, {}, LATENTS).values()
    assert (case["name"], case["passed"]) == ("baseline", False)


def test_machines_share_a_baseline_until_the_model_changes(folder: Path) -> None:
    latents = folder / "latents.bin"
    store_baseline(folder, "job", MANIFEST | ELSEWHERE, REPORT, latents)
    assert _compare(folder, {}, {}, LATENTS)["latents"]["how"] == "bit by bit"
    assert _compare(folder, ELSEWHERE, {}, LATENTS)["latents"]["how"] == "bit by bit"
    store_baseline(folder, "job", MANIFEST | ELSEWHERE | {"model": {"sha256": "n"}}, REPORT, latents)
    assert "as numbers" in _compare(folder, {"model": {"sha256": "n"}}, {}, LATENTS)["latents"]["how"]


def test_failures_are_reported_everywhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = list(_compare(folder, {}, {"flicker": 9.0}, LATENTS).values())
    write_junit(folder / "reports" / "junit.xml", cases)
    suite = ElementTree.parse(folder / "reports" / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == (str(len(cases)), "1")
    assert [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None] == ["flicker"]
    assert print_verdict({"passed": False, "cases": cases, "page": "a.html"}, as_json=False) == 1
    told = capsys.readouterr()
    assert "job: flicker: 9.0, baseline 0.5, tolerance 0.01" in told.err
    assert told.out.endswith("comparisons passed; see a.html\n")
    assert print_verdict({"passed": True, "cases": cases[:1], "page": "a.html"}, as_json=False) == 0


LONG = np.random.default_rng(1).normal(size=(8, 40, 30, 24)).astype(np.float32)


@pytest.mark.parametrize(
    ("factor", "passed"), [pytest.param(1.05, True, id="near"), pytest.param(1.2, False, id="far")]
)
def test_of_long_videos_only_means_are_stored(folder: Path, factor: float, passed: bool) -> None:
    LONG.tofile(folder / "long.bin")
    manifest = MANIFEST | {"latents_shape": list(LONG.shape)}
    store_baseline(folder, "job", manifest, REPORT, folder / "long.bin")
    assert (folder / "job.latents.npy").stat().st_size < 2 * 8 * 16 * 6 * 4 + 200
    assert pooled(LONG).shape == (8, 16, 6, 4)
    assert np.allclose(pooled(LONG).mean(), LONG.mean(), atol=1e-3)
    case = _compare(folder, ELSEWHERE, {}, factor * LONG)["latents"]
    assert (case["passed"], "as numbers" in case["how"]) == (passed, True)


@pytest.mark.parametrize(
    ("manifest", "machines"),
    [
        pytest.param({"metrics": 1}, 2, id="the same latents"),
        pytest.param({"latents_sha256": "new"}, 1, id="other latents: no machine makes what is stored"),
        pytest.param({"model": {"sha256": "new"}}, 1, id="another model"),
        pytest.param({"machine": "arm64-base-4", "latents_sha256": "third"}, 3, id="one more machine"),
    ],
)
def test_digests_of_other_machines_stay_as_long_as_they_are_true(
    manifest: dict[str, Any], machines: int, folder: Path
) -> None:
    store_baseline(folder, "job", MANIFEST | ELSEWHERE, REPORT, folder / "latents.bin")
    changed = MANIFEST | manifest
    store_baseline(folder, "job", changed, REPORT, folder / "latents.bin")
    digests = json.loads((folder / "job.json").read_text())["digests"]
    assert len(digests) == machines
    assert changed["latents_sha256"] in digests.values()


def test_an_update_wants_a_reason(home: Path) -> None:
    with pytest.raises(InputError, match="--reason"):
        regression.fn(str(home), update=True)


def test_an_update_files_its_reason_and_a_run_has_a_page(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "jobs.json").write_text(json.dumps({"a": JOB, "b": JOB}))
    video = write(home / "golden" / "b" / "video.mp4", 24)
    (video.parent / "manifest.json").write_text(json.dumps(MANIFEST))
    LATENTS.tofile(video.parent / "latents.bin")
    monkeypatch.setattr("flows.regression.result_of", lambda *_: {"report": REPORT})
    made: list[Path] = []
    monkeypatch.setattr("flows.regression.strip", lambda path: made.append(path) or strip(path))
    (home / "b.webp").write_bytes(strip(write(home / "before.mp4", 12)))
    verdict = regression.fn(str(home), update=True, reason=" new weights ", only=["b"]).data
    assert made == [video], "pictures are taken once"
    line = json.loads((home / "updates.jsonl").read_text())
    assert (line["reason"], line["jobs"], verdict["passed"]) == ("new weights", ["b"], True)
    assert (home / "b.webp").stat().st_size > 100
    page = (home / "golden" / "regression.html").read_text()
    assert (page.count("<img"), verdict["page"]) == (3, str(home / "golden" / "regression.html"))
    shown = [base64.b64decode(picture) for picture in re.findall(r"base64,([^\"]+)", page)]
    assert shown[0] == (home / "b.webp").read_bytes() != shown[1], "beside the baseline that it replaces"
    with pytest.raises(InputError, match="--only 'c' is no golden job; there are a, b"):
        regression.fn(str(home), only=["c"])


@pytest.mark.parametrize(
    ("cause", "asked"),
    [pytest.param(KeyboardInterrupt(), ["a"], id="Ctrl-C"), pytest.param(None, ["a", "b"], id="an error of a job")],
)
def test_ctrl_c_ends_the_regression_and_not_the_job_alone(
    cause: BaseException | None, asked: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "jobs.json").write_text(json.dumps({"a": JOB, "b": JOB}))
    begun: list[str] = []

    def result_of(_: Any, parameters: Any) -> None:
        begun.append(Path(parameters.out).name)
        raise Interrupted("stopped at block 4") from cause

    monkeypatch.setattr("flows.regression.result_of", result_of)
    if cause is None:
        assert not regression.fn(str(home)).data["passed"]
    else:
        with pytest.raises(Interrupted):
            regression.fn(str(home))
    assert begun == asked


def test_a_table_that_cannot_be_read_is_named(home: Path) -> None:
    with pytest.raises(InputError, match="no table of jobs"):
        regression.fn(str(home))
