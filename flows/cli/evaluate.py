"""`liveavatar evaluate`: measure and judge finished videos, one or many, with one line or one table row for each."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.terminal import say
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.files import disk_errors, replacing
from liveavatar.isolation.caller import isolated
from tasks.inputs import decode_portrait

Options = dict[str, Any]
Report = dict[str, Any]
TABLES = (".csv", ".parquet")
UNREADABLE = "unreadable"  # status of a video that could not be judged


def evaluate_command(options: Options) -> int:
    """Judge videos; the worst of their exit codes: 0 passed or warned, 1 failed, 2 unreadable."""
    videos, portraits = options["video"], options["image"]
    table = Path(options["table"]) if options["table"] else None
    _check(videos, portraits, options, table)
    for portrait in dict.fromkeys(portraits):
        decode_portrait(Path(portrait))  # by itself, so that a refusal names it
    pairs = list(zip(videos, portraits * len(videos) if len(portraits) == 1 else portraits, strict=True))
    if len(pairs) == 1 and table is None:
        report = _judged(*pairs[0], options, options["docs"])
        if options["json"]:
            say(json.dumps(report, indent=2))
        else:
            _show(report)
        return int(report["status"] == "failed")
    return _judge_all(pairs, options, table)


def _check(videos: Sequence[str], portraits: Sequence[str], options: Options, table: Path | None) -> None:
    audio, truth = options["audio"], options["against"]
    if len(portraits) not in (1, len(videos)):
        raise InputError(
            f"--image is given {len(portraits)} times for {len(videos)} videos; give one for all, or one for each"
        )
    if audio and len(videos) > 1:
        raise InputError(f"--audio {audio}: one sound cannot have driven {len(videos)} videos; judge them one by one")
    if truth and len(videos) > 1:
        raise InputError(f"--against {truth}: one video cannot be the truth of {len(videos)}; judge them one by one")
    if options["face"] < 0:
        raise InputError(f"--face {options['face']}: count the faces from 1, the largest first")
    if table is not None and (table.suffix not in TABLES or not table.parent.is_dir() or table.is_dir()):
        raise InputError(f"--table {table}: give the name of a {' or '.join(TABLES)} file in a folder that is there")


def _judge_all(pairs: Sequence[tuple[str, str]], options: Options, table: Path | None) -> int:
    """Judge every video, whatever the others do."""
    from flows.terminal import Terminal

    rows, worst = [], 0
    with Terminal("evaluate") as terminal:
        for number, (video, portrait) in enumerate(pairs, 1):
            docs = str(Path(options["docs"]) / f"{number:03d}") if options["docs"] else None
            try:
                report = _judged(video, portrait, options, docs)
            except LiveAvatarError as e:
                report = {"status": UNREADABLE, "headline": str(e), "checks": [], "metrics": {}}
                worst = max(worst, e.exit_code)
            worst = max(worst, int(report["status"] == "failed"))
            rows.append({"video": video, "image": portrait, **report})
            terminal.note("evaluate", f"{number} of {len(pairs)}: {video}: {report['status']}")
    if table is not None:
        write_table(rows, table)
    if options["json"]:
        say(json.dumps(rows, indent=2))
    else:
        for row in rows:
            say(_line(row))
    return worst


def _judged(video: str, portrait: str, options: Options, docs: str | None) -> Report:
    rules = {name: options[name] for name in ("audio", "limits", "allow_unjudged", "against", "face")} | {"docs": docs}
    report: Report = isolated(judged_video, video, portrait, rules, beats=True)
    return report


def _line(row: Report) -> str:
    return f"{row['status']:<10} {row['video']}" + (f": {row['headline']}" if row["headline"] else "")


def _show(report: Report) -> None:
    say(": ".join(filter(None, [report["status"], report["headline"]])))
    if report["num_faces"] > 1 and not report["face"]:
        say(f"  the video shows {report['num_faces']} faces; the most prominent one was judged, --face N takes another")
    for name, value in report.get("against", {}).items():
        say(f"  against {name:<13} {value if value is not None else '- (nothing to compare)'}")
    for name, value in report["metrics"].items():
        say(f"  {name:<18} {value if value is not None else '- (' + report['reasons'].get(name, '') + ')'}")
    for check in report["checks"]:
        if check["status"] != "passed":
            say(f"  {check['status']}: {check['name']}: {check['reason']}")


def table_rows(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Lay reports out as rows: video, image, status, headline, names of checks, and a column for each measure."""
    names = list(dict.fromkeys(name for report in reports for name in report["metrics"]))
    return [
        {
            **{name: report[name] for name in ("video", "image", "status", "headline")},
            **{
                status: " ".join(check["name"] for check in report["checks"] if check["status"] == status)
                for status in ("failed", "warned")
            },
            **{name: report["metrics"].get(name) for name in names},
        }
        for report in reports
    ]


def write_table(reports: Sequence[Report], path: Path) -> None:
    """Write one row a video as .csv or .parquet, by the name of the file."""
    import pandas as pd

    table = pd.DataFrame(table_rows(reports)).convert_dtypes()
    with disk_errors(path), replacing(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)


def judged_video(video: Path, image: str, rules: Options, *, on_progress: Callable[[], None]) -> Report:
    """Measure and judge a video; runs in a worker.

    Args:
        video: the file.
        image: the portrait.
        rules: `audio` (a file), `limits` (a file), `docs` (a folder), `allow_unjudged`, `against` (a video), `face`.
        on_progress: called before every frame.

    Returns:
        `status`, `headline`, `checks`, `metrics`, `reasons`, `worst_seconds` as in report.json; `num_faces` of the
        first picture and `face`, the one chosen; `against`, the comparison with a true video, if one was given.
    """
    from liveavatar.audio.ingest import load_audio
    from liveavatar.media.portrait import load_portrait
    from liveavatar.quality.against import compare_videos
    from liveavatar.quality.evaluate import evaluate_video
    from liveavatar.quality.limits import read_limits
    from liveavatar.quality.suites import judge

    on_progress()
    limits = read_limits(Path(rules["limits"])) if rules["limits"] else None
    sound = load_audio(rules["audio"], on_progress=on_progress) if rules["audio"] else None
    result = evaluate_video(video, load_portrait(image), sound, face=rules["face"], on_progress=on_progress)
    seen = {"num_faces": result.num_faces, "face": rules["face"]}
    if rules["against"]:
        truth = compare_videos(Path(video), Path(rules["against"]), face=rules["face"], on_progress=on_progress)
        seen["against"] = asdict(truth)
    verdict = judge(
        result,
        Path(rules["docs"]) if rules["docs"] else None,
        limits=limits,
        allow_unjudged=rules["allow_unjudged"],
        expectations=False,
    )
    measured = {"metrics": result.metrics, "reasons": result.reasons, "worst_seconds": result.worst_seconds}
    return {**verdict.as_dict(), **measured, **seen}
