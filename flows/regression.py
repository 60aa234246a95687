"""Golden jobs -> pass or fail against stored baselines.

A golden job is rendered and compared with its baseline below `data/golden`. On a machine whose arithmetic is that of
a stored digest, latents must be equal bit by bit. On another machine they are compared as numbers with the stored
latents, and the verdict says so. The measures of the video are compared either way. `--update` stores what is
rendered now.
"""

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from flows.parameters import read_parameters
from flows.serving import environment
from flows.terminal import complain, say
from liveavatar import paths
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.files import read_json, write_atomically

environment.import_prefect()

from prefect import flow  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.states import State  # noqa: E402

from flows.render import render  # noqa: E402
from flows.run_record import named, result_of, state_of  # noqa: E402
from tasks.bookkeeping import recorded  # noqa: E402

GOLDEN = paths.GOLDEN_BASELINES
JOBS = "jobs.json"
MAX_RELATIVE_ERROR = 0.1  # RMS of the difference over RMS of the baseline, for latents of another machine
TOLERANCES = {  # largest difference of a measure from its baseline
    "av_offset_frames": 1.0,
    "sync_error_frames": 1.5,
    "lip_sync": 0.05,
    "silent_lip": 0.02,
    "identity_min": 0.05,
    "texture_psnr": 1.0,
    "sharpness_ratio": 0.1,
    "flicker": 0.01,
    "motion_energy": 0.02,
    "dropped_frames": 0.0,
    "duration_error_s": 0.041,
}
Case = dict[str, Any]


def _regression_name(given: dict[str, Any]) -> str:
    return f"regression-{Path(given['golden']).name}"


@flow(name="regression", flow_run_name=named(_regression_name), persist_result=False)
def regression(golden: str = str(GOLDEN), update: bool = False, junit: str | None = None) -> State[dict[str, Any]]:
    """Render the golden jobs and compare.

    Args:
        golden: folder with jobs.json and the baselines.
        update: store what is rendered as the baseline of this machine.
        junit: where to write a JUnit XML report.

    Returns:
        a state, Failed when any comparison failed, with `passed` (bool) and `cases`: job, name, passed, how (what was
        compared), detail.
    """
    folder = Path(golden)
    cases: list[Case] = []
    for name, job in _jobs(folder).items():
        cases += _golden(folder, name, job, update)
    if junit:
        write_junit(Path(junit), cases)
    recorded(
        lambda: create_table_artifact(table=cases, key="regression", description="golden jobs against their baselines")
    )
    return regression_state(cases)


def regression_state(cases: list[Case]) -> State[dict[str, Any]]:
    """Make the final state of a regression from its comparisons."""
    failed = [f"{case['job']}: {case['name']}: {case['detail']}" for case in cases if not case["passed"]]
    verdict = {"passed": not failed, "cases": cases}
    return state_of("failed" if failed else "passed", verdict, failed, f"{len(cases)} comparisons")


def _jobs(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        jobs = read_json(folder / JOBS)
        return {name: {k: _resolve_file(k, v, folder) for k, v in job.items()} for name, job in jobs.items()}
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise InputError(f"--golden {folder}: {JOBS} is missing or no table of jobs ({e}); see data/golden") from e


def _resolve_file(option: str, value: Any, folder: Path) -> Any:
    """Resolve a file option relative to the golden folder or to the repository."""
    if option not in ("audio", "image", "model"):
        return value
    return next((str(base / value) for base in (folder, paths.REPO_ROOT) if (base / value).exists()), value)


def _golden(folder: Path, name: str, job: dict[str, Any], update: bool) -> list[Case]:
    out = paths.golden_runs() / name
    try:
        result = result_of(render, read_parameters({**job, "out": str(out)}))
    except LiveAvatarError as e:
        return [{"job": name, "name": "render", "passed": False, "how": "rendered", "detail": str(e)}]
    manifest = json.loads((out / "manifest.json").read_text())
    if update:
        store_baseline(folder, name, manifest, result["report"], out / "latents.bin")
    return compare(folder, name, manifest, result["report"], out / "latents.bin")


def store_baseline(folder: Path, name: str, manifest: Case, report: Case, latents: Path) -> None:
    """Store a render as the baseline: this machine's digest beside the others', measures, and rounded latents."""
    import numpy as np

    path = folder / f"{name}.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    same = stored.get("model_sha256") == manifest["model"]["sha256"]
    digests = {**(stored.get("digests", {}) if same else {}), _signature(manifest): manifest["latents_sha256"]}
    baseline = {
        "model_sha256": manifest["model"]["sha256"],
        "digests": digests,
        "status": report["status"],
        "metrics": {key: report["metrics"].get(key) for key in TOLERANCES},
    }
    values = np.fromfile(latents, "<f4").reshape(manifest["latents_shape"]).astype(np.float16)
    np.save(folder / f"{name}.latents.npy", values)
    write_atomically(path, (json.dumps(baseline, indent=2, sort_keys=True) + "\n").encode())


def compare(folder: Path, name: str, manifest: Case, report: Case, latents: Path) -> list[Case]:
    """Compare a golden job with its baseline: one case for its latents, its verdict and each measure."""
    path = folder / f"{name}.json"
    if not path.exists():
        detail = f"no baseline {path.name}; run `liveavatar regress --update` and look at what it stores"
        return [{"job": name, "name": "baseline", "passed": False, "how": "looked up", "detail": detail}]
    baseline = json.loads(path.read_text())
    if baseline["model_sha256"] != manifest["model"]["sha256"]:
        detail = "the model changed since the baseline was stored; if that is meant, run `liveavatar regress --update`"
        return [{"job": name, "name": "model", "passed": False, "how": "digest of the weights", "detail": detail}]
    cases = [_latents_case(name, baseline, manifest, folder / f"{name}.latents.npy", latents)]
    same = report["status"] == baseline["status"]
    detail = f"{report['status']}, baseline {baseline['status']}"
    cases.append({"job": name, "name": "verdict", "passed": same, "how": "equal", "detail": detail})
    for key, limit in TOLERANCES.items():
        cases.append({"job": name, **_measure_case(key, baseline["metrics"][key], report["metrics"].get(key), limit)})
    return cases


def _latents_case(name: str, baseline: Case, manifest: Case, stored: Path, latents: Path) -> Case:
    import numpy as np

    expected = baseline["digests"].get(_signature(manifest))
    if expected == manifest["latents_sha256"]:
        return {"job": name, "name": "latents", "passed": True, "how": "bit by bit", "detail": "equal"}
    theirs = np.load(stored).astype(np.float32)
    ours = np.fromfile(latents, "<f4").reshape(manifest["latents_shape"])
    if theirs.shape != ours.shape:
        detail = f"shape {list(ours.shape)}, baseline {list(theirs.shape)}"
        return {"job": name, "name": "latents", "passed": False, "how": "shape", "detail": detail}
    error = float(np.sqrt(np.mean((ours - theirs) ** 2)) / max(1e-9, float(np.sqrt(np.mean(theirs**2)))))
    if expected is not None:
        detail = f"differ from the digest stored for {_signature(manifest)}; relative error {error:.2e}"
        return {"job": name, "name": "latents", "passed": False, "how": "bit by bit", "detail": detail}
    how = f"as numbers, for no digest is stored for {_signature(manifest)}"
    detail = f"relative error {error:.2e}, limit {MAX_RELATIVE_ERROR}"
    return {"job": name, "name": "latents", "passed": error <= MAX_RELATIVE_ERROR, "how": how, "detail": detail}


def _measure_case(key: str, expected: float | None, value: float | None, limit: float) -> Case:
    if expected is None or value is None:
        passed = expected is None and value is None
    else:
        passed = math.isclose(value, expected, rel_tol=0, abs_tol=limit + 1e-9)
    detail = f"{value}, baseline {expected}, tolerance {limit}"
    return {"name": key, "passed": passed, "how": "within tolerance", "detail": detail}


def _signature(manifest: Case) -> str:
    """Name the facts that decide the bits: the machine's arithmetic, the precision, the torch version."""
    return f"{manifest['machine']} {manifest['dtype']} torch-{manifest['packages']['torch'].split('+')[0]}"


def write_junit(path: Path, cases: list[Case]) -> None:
    """Write cases as JUnit XML."""
    failures = sum(not case["passed"] for case in cases)
    suite = ElementTree.Element("testsuite", name="regression", tests=str(len(cases)), failures=str(failures))
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", classname=case["job"], name=case["name"])
        if not case["passed"]:
            ElementTree.SubElement(element, "failure", message=case["detail"]).text = case["how"]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def print_verdict(verdict: dict[str, Any], as_json: bool) -> int:
    """Print the cases that failed and a summary; 1 when any did."""
    if as_json:
        say(json.dumps(verdict, indent=2))
    failed = [case for case in verdict["cases"] if not case["passed"]]
    for case in failed:
        complain(f"{case['job']}: {case['name']}: {case['detail']} ({case['how']})")
    if not as_json:
        for case in verdict["cases"]:
            if case["name"] == "latents" and case["passed"]:
                say(f"{case['job']}: latents compared {case['how']}: {case['detail']}")
        say(f"{len(verdict['cases']) - len(failed)} of {len(verdict['cases'])} comparisons passed")
    return int(not verdict["passed"])
