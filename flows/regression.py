"""Golden jobs -> pass or fail against stored baselines.

A golden job is rendered and compared with its baseline below `data/golden`. On a machine whose arithmetic is that of
a stored digest, latents must be equal bit by bit. On another machine they are compared as numbers with the stored
latents, and the verdict says so. Of long videos the stored latents are means over short stretches of time and parts of
the picture. The measures of the video are compared either way, its lip offset to the frame. `regression.html` shows
pictures of both and where they differ. `--update` stores what is rendered now, and files the reason.
"""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from flows.cancelling import unless_cancelled
from flows.golden_inputs import PREFIX, make_input
from flows.parameters import read_parameters
from flows.serving import environment
from flows.terminal import complain, say
from liveavatar import __version__, paths
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.files import read_bytes, read_json, write_atomically

environment.import_prefect()

from prefect import flow  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.states import State  # noqa: E402

from flows.regression_page import strip, write_page  # noqa: E402
from flows.render import render  # noqa: E402
from flows.run_record import named, result_of, state_of  # noqa: E402
from flows.serving.lost_runs import note_run  # noqa: E402
from tasks.bookkeeping import recorded  # noqa: E402
from tasks.cluster.interruption import comes_from_interrupt  # noqa: E402
from tasks.run_folder import VIDEO  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

GOLDEN = paths.GOLDEN_BASELINES
JOBS = "jobs.json"
UPDATES = "updates.jsonl"  # why baselines were stored, a line each time
PAGE = "regression.html"
MOST_VALUES = 200_000  # of latents that are stored whole
POOLED = (16, 6, 4)  # means of longer ones: over time, height and width
MAX_RELATIVE_ERROR = 0.1  # RMS of the difference over RMS of the baseline, for latents of another machine
TOLERANCES = {  # largest difference of a measure from its baseline
    "av_offset_frames": 0.0,  # whole frames: lips are where they were
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
FILES = ("audio", "image", "model", "pose_video")
ALL_JOBS: list[str] = []
Case = dict[str, Any]


def _regression_name(given: dict[str, Any]) -> str:
    return f"regression-{Path(given['golden']).name}"


@flow(name="regression", flow_run_name=named(_regression_name), persist_result=False, on_running=[note_run])
def regression(
    golden: str = str(GOLDEN),
    update: bool = False,
    junit: str = "",
    reason: str = "",
    only: list[str] = ALL_JOBS,
) -> State[dict[str, Any]]:
    """Render the golden jobs and compare.

    Args:
        golden: folder with jobs.json and the baselines.
        update: store what is rendered as the baseline of this machine.
        junit: where to write a JUnit XML report; nowhere when empty.
        reason: why the baseline is stored anew; filed beside it.
        only: names of the jobs; all when empty.

    Returns:
        a state, Failed when any comparison failed, with `passed` (bool) and `cases`: job, name, passed, how (what was
        compared), detail; `page`: regression.html.
    """
    return unless_cancelled(lambda: _compare(Path(golden), update, junit, reason, only))


def _compare(folder: Path, update: bool, junit: str, reason: str, only: list[str]) -> State[dict[str, Any]]:
    if update and not reason.strip():
        raise InputError("--update replaces baselines: say why with --reason, such as --reason 'new weights'")
    cases: list[Case] = []
    strips: dict[str, tuple[bytes, bytes | None]] = {}
    jobs = _jobs(folder, only)
    for name, job in jobs.items():
        stored = folder / f"{name}.webp"
        before = read_bytes(stored) if stored.is_file() else None
        compared, ours = _golden(folder, name, job, update)
        cases += compared
        if ours is not None:
            strips[name] = (ours, before)
    if update:
        _file_reason(folder, reason, list(jobs))
    write_page(paths.golden_runs() / PAGE, cases, strips)
    if junit:
        write_junit(Path(junit), cases)
    recorded(
        lambda: create_table_artifact(table=cases, key="regression", description="golden jobs against their baselines")
    )
    return regression_state(cases)


def regression_state(cases: list[Case]) -> State[dict[str, Any]]:
    """Make the final state of a regression from its comparisons."""
    failed = [f"{case['job']}: {case['name']}: {case['detail']}" for case in cases if not case["passed"]]
    verdict = {"passed": not failed, "cases": cases, "page": str(paths.golden_runs() / PAGE)}
    return state_of("failed" if failed else "passed", verdict, failed, f"{len(cases)} comparisons")


def _jobs(folder: Path, only: Sequence[str]) -> dict[str, dict[str, Any]]:
    try:
        jobs = {str(name): dict(job) for name, job in read_json(folder / JOBS).items()}
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise InputError(f"--golden {folder}: {JOBS} is missing or no table of jobs ({e}); see data/golden") from e
    unknown = [name for name in only if name not in jobs]
    if unknown:
        raise InputError(f"--only {unknown[0]!r} is no golden job; there are {', '.join(jobs)}")
    wanted = {name: job for name, job in jobs.items() if not only or name in only}
    return {name: {k: _resolve_file(k, v, folder) for k, v in job.items()} for name, job in wanted.items()}


def _resolve_file(option: str, value: Any, folder: Path) -> Any:
    """Find the file of an option in the golden folder or in the repository; one that is to be made is made."""
    if option not in FILES:
        return value
    if str(value).startswith(PREFIX):
        return str(make_input(str(value).removeprefix(PREFIX), paths.golden_runs() / "inputs"))
    return next((str(base / value) for base in (folder, paths.REPO_ROOT) if (base / value).exists()), value)


def _file_reason(folder: Path, reason: str, jobs: list[str]) -> None:
    """Add a line about an update of baselines to their folder."""
    line = {
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "reason": reason.strip(),
        "jobs": jobs,
    }
    before = read_bytes(folder / UPDATES) if (folder / UPDATES).is_file() else b""
    write_atomically(folder / UPDATES, before + (json.dumps(line, ensure_ascii=False) + "\n").encode())


def _golden(folder: Path, name: str, job: dict[str, Any], update: bool) -> tuple[list[Case], bytes | None]:
    """Render a golden job; return its comparisons and its strip of pictures, None when it could not be rendered.

    Raises:
        LiveAvatarError: it was stopped by Ctrl-C, which is for all of them.
    """
    out = paths.golden_runs() / name
    try:
        result = result_of(render, read_parameters({**job, "out": str(out)}))
    except LiveAvatarError as e:
        if comes_from_interrupt(e):
            raise
        return [{"job": name, "name": "render", "passed": False, "how": "rendered", "detail": str(e)}], None
    ours = strip(out / VIDEO)
    manifest = read_json(out / "manifest.json")
    if update:
        store_baseline(folder, name, manifest, result["report"], out / "latents.bin")
        write_atomically(folder / f"{name}.webp", ours)
    return compare(folder, name, manifest, result["report"], out / "latents.bin"), ours


def store_baseline(folder: Path, name: str, manifest: Case, report: Case, latents: Path) -> None:
    """Store a render as the baseline: this machine's digest beside the others', measures, and rounded latents.

    Where this machine's latents are not those of its stored digest, the digests of other machines are no longer true.
    """
    import numpy as np

    path = folder / f"{name}.json"
    stored = read_json(path) if path.exists() else {}
    digests, here, digest = stored.get("digests", {}), _signature(manifest), manifest["latents_sha256"]
    same = stored.get("model_sha256") == manifest["model"]["sha256"] and digests.get(here, digest) == digest
    baseline = {
        "model_sha256": manifest["model"]["sha256"],
        "digests": {**(digests if same else {}), here: digest},
        "latents_shape": manifest["latents_shape"],
        "status": report["status"],
        "metrics": {key: report["metrics"].get(key) for key in TOLERANCES},
    }
    values = pooled(np.fromfile(latents, "<f4").reshape(manifest["latents_shape"]))
    np.save(folder / f"{name}.latents.npy", values.astype(np.float16))
    write_atomically(path, (json.dumps(baseline, indent=2, sort_keys=True) + "\n").encode())


def pooled(latents: "np.ndarray") -> "np.ndarray":
    """Take means of latents that are too many to be stored, over stretches of time and parts of the picture."""
    import numpy as np

    if latents.size <= MOST_VALUES:
        return latents
    for axis, parts in zip((-3, -2, -1), POOLED, strict=True):
        pieces = np.array_split(latents, min(parts, latents.shape[axis]), axis)
        latents = np.stack([piece.mean(axis) for piece in pieces], axis)
    return latents


def compare(folder: Path, name: str, manifest: Case, report: Case, latents: Path) -> list[Case]:
    """Compare a golden job with its baseline: one case for its latents, its verdict and each measure."""
    path = folder / f"{name}.json"
    if not path.exists():
        detail = f"no baseline {path.name}; run `liveavatar regress --update` and look at what it stores"
        return [{"job": name, "name": "baseline", "passed": False, "how": "looked up", "detail": detail}]
    baseline = read_json(path)
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
    before = baseline.get("latents_shape", list(theirs.shape))
    if before != manifest["latents_shape"]:
        detail = f"shape {manifest['latents_shape']}, baseline {before}"
        return {"job": name, "name": "latents", "passed": False, "how": "shape", "detail": detail}
    ours = pooled(np.fromfile(latents, "<f4").reshape(before))
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
        passed = len(verdict["cases"]) - len(failed)
        say(f"{passed} of {len(verdict['cases'])} comparisons passed; see {verdict['page']}")
    return int(not verdict["passed"])
