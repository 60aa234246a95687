"""Verdict: Great Expectations suites over a video's metrics, frames and blocks.

Every limit becomes an expectation, and one that is not met a second one for the wider range (see `limits`); what the
library finds decides the status of the check. A check is `passed`, `warned`, `failed`, or `skipped` when there was,
rightly, nothing to measure. The video has the worst status of its checks. A measure that should be there and is not
fails: what cannot be judged is not "not bad". A user who knows why may let those warn whose means to measure are
missing (`allow_unjudged`); where the video is to blame they fail all the same.

Great Expectations takes seconds to import, so that happens on use, and one who wants the verdict alone can do without.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveavatar.files import plain
from liveavatar.quality.absence import Absence
from liveavatar.quality.causes import headline
from liveavatar.quality.evaluate import QualityResult
from liveavatar.quality.grades import ABSENT, ORDER, Finding, column_of, compare
from liveavatar.quality.limit import Limit, Range
from liveavatar.quality.limits import ROW_LIMITS, RowLimit, limits_for

if TYPE_CHECKING:
    import pandas as pd

PASSED, WARNED, FAILED, SKIPPED = "passed", "warned", "failed", "skipped"
ENOUGH_SECONDS = 1.0  # a shorter video cannot be judged


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    name: str
    status: str  # passed, warned, failed or skipped
    value: float | int | None
    limit: str  # in words
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Grade of a video, with its checks."""

    status: str  # passed, warned or failed
    checks: tuple[Check, ...]
    headline: str = ""  # what is wrong, in words; empty when nothing is

    def as_dict(self) -> dict[str, Any]:
        """Convert to `status`, `headline` and `checks` of `report.json`."""
        checks = [plain(asdict(check)) for check in self.checks]
        return {"status": self.status, "headline": self.headline, "checks": checks}


def judge(
    result: QualityResult,
    docs_dir: Path | None = None,
    *,
    limits: Sequence[Limit] | None = None,
    allow_unjudged: bool = False,
    collapse: Mapping[str, Any] | None = None,
    expectations: bool = True,
) -> Verdict:
    """Judge a video.

    Args:
        result: from `evaluate_video`.
        docs_dir: folder for Great Expectations' data docs (`docs_dir/index.html`); None for none.
        limits: of the metrics, from `read_limits`; None for the product's own.
        allow_unjudged: let what cannot be measured for want of means warn instead of fail.
        collapse: `seconds` and `reason`, where the render found that the picture falls apart and ended the video there.
        expectations: run the suites; without them the limits are compared directly, in milliseconds, with the same
            verdict and no data docs.

    Returns:
        the status and one check per limit, plus the two that compare the sound before and after cleaning.
    """
    limits = limits_for(result, limits)
    measured = [limit for limit in limits if result.metrics.get(limit.name) is not None]
    rows = [row for row in ROW_LIMITS if column_of(result, row).notna().any()]
    if expectations or docs_dir is not None:
        findings = _validate(result, measured, rows, docs_dir)
    else:
        findings = compare(result, measured, rows)
    checks = [_metric_check(result, limit, findings, allow_unjudged) for limit in limits]
    checks += [_row_check(limit, findings) for limit in rows]
    checks += [*_sound_checks(result), *_length_check(result)]
    if collapse is not None:
        checks.append(
            Check("collapse", FAILED, collapse["seconds"], "the picture holds to the end", collapse["reason"])
        )
    worst = max(checks, key=lambda check: ORDER.index(check.status)).status
    words = headline(
        {c.name: c.status for c in checks}, {c.name: c.value for c in checks}, {c.name: c.reason for c in checks},
        result.worst_seconds,
    )  # fmt: skip
    return Verdict(PASSED if worst == SKIPPED else worst, tuple(checks), words)


def _validate(
    result: QualityResult, limits: list[Limit], rows: list[RowLimit], docs_dir: Path | None
) -> dict[tuple[str, str], Finding]:
    """Run the suites; keys are (check, "good" or "tolerable").

    The wider ranges are tried only on checks outside their inner ones: an expectation takes some 25 ms.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # no usage data leaves the machine
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    one_row = pd.DataFrame([{limit.name: float(result.metrics[limit.name] or 0) for limit in limits}])
    tables = {"metrics": one_row, "frames": result.frames, "blocks": result.blocks}
    context: Any = gx.get_context(mode="ephemeral")
    if docs_dir is not None:
        context = gx.get_context(mode="file", project_root_dir=str(docs_dir))
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    findings: dict[tuple[str, str], Finding] = {}
    for level in ("good", "tolerable"):
        outside = {name for (name, _), finding in findings.items() if not finding.success}
        expectations: dict[str, list[Any]] = {"metrics": [], "frames": [], "blocks": []}
        for limit in limits:
            if level == "good" or limit.name in outside:
                expectations["metrics"].append(_expectation(limit, level))
        for row in rows:
            if level == "good" or row.name in outside:
                expectations[row.table].append(_expectation(row, level))
        for table, suite in expectations.items():
            if suite:
                findings |= _run_suite(context, table, level, suite, tables[table])
    if docs_dir is not None:
        _publish_docs(context, docs_dir)
    return findings


def _expectation(limit: Limit | RowLimit, level: str) -> Any:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.metadata_types import FailureSeverity

    wide = level == "tolerable"
    if isinstance(limit, RowLimit):
        column, allowed, mostly = limit.column, limit.between, limit.tolerable if wide else limit.good
    else:
        column, allowed, mostly = limit.name, limit.tolerable if wide else limit.good, 1.0
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=allowed[0], max_value=allowed[1], mostly=mostly,
        meta={"check": limit.name, "level": level},
        severity=FailureSeverity.CRITICAL if wide else FailureSeverity.WARNING,
    )  # fmt: skip


def _run_suite(
    context: Any, table: str, level: str, expectations: list[Any], data: "pd.DataFrame"
) -> dict[tuple[str, str], Finding]:
    import great_expectations as gx

    name = f"{table}_{level}"
    batch = context.data_sources.add_or_update_pandas(f"video_{name}").add_dataframe_asset(table)
    definition = gx.ValidationDefinition(
        name=name,
        data=batch.add_batch_definition_whole_dataframe("whole"),
        suite=context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=expectations)),
    )
    checkpoint = gx.Checkpoint(
        name=name, validation_definitions=[context.validation_definitions.add_or_update(definition)]
    )
    outcome = context.checkpoints.add_or_update(checkpoint).run(batch_parameters={"dataframe": data})
    findings = {}
    for validation in outcome.run_results.values():
        for item in validation.results:
            meta = item.expectation_config.meta
            unexpected = item.result.get("unexpected_percent")
            share = 0.0 if unexpected is None else 1 - float(unexpected) / 100
            findings[meta["check"], meta["level"]] = Finding(bool(item.success), share)
    return findings


def _publish_docs(context: Any, docs_dir: Path) -> None:
    """Build the data docs and write a page at the folder's top that redirects to them."""
    pages = context.build_data_docs()
    page = Path(str(next(iter(pages.values()))).removeprefix("file://"))
    target = os.path.relpath(page, docs_dir)
    (docs_dir / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={target}">'
        f'<a href="{target}">data docs</a>\n'
    )


def _status(name: str, findings: dict[tuple[str, str], Finding]) -> str:
    if findings[name, "good"].success:
        return PASSED
    return WARNED if findings[name, "tolerable"].success else FAILED


def _metric_check(
    result: QualityResult, limit: Limit, findings: dict[tuple[str, str], Finding], allow_unjudged: bool
) -> Check:
    value = result.metrics.get(limit.name)
    words = f"{_words(limit.good)}; fails unless {_words(limit.tolerable)}"
    if value is None:
        kind = result.absences.get(limit.name, Absence.NOT_POSSIBLE)
        status = WARNED if allow_unjudged and kind is Absence.NOT_POSSIBLE else ABSENT[kind]
        return Check(limit.name, status, None, words, result.reasons.get(limit.name, "not measured"))
    status = _status(limit.name, findings)
    second = result.worst_seconds.get(limit.name)
    when = "" if second is None else f", worst at {second:.1f} s"
    reason = limit.source if status == PASSED else f"{value:.4g} is not {_words(limit.good)}{when} ({limit.source})"
    return Check(limit.name, status, value, words, reason)


def _row_check(limit: RowLimit, findings: dict[tuple[str, str], Finding]) -> Check:
    share = findings[limit.name, "good"].share
    words = f"{_words(limit.between)} in {limit.good:.0%} of {limit.table}; fails under {limit.tolerable:.0%}"
    status = _status(limit.name, findings)
    reason = limit.source if status == PASSED else f"only {share:.1%} of the {limit.table} ({limit.source})"
    return Check(limit.name, status, share, words, reason)


def _sound_checks(result: QualityResult) -> list[Check]:
    """Check that cleaning did not harm: at most a warning, because the video itself may be fine."""
    rules = (("dnsmos", -0.1, "higher is better"), ("wer", 0.05, "lower is better"))
    checks = []
    for name, slack, direction in rules:
        before, after = result.metrics.get(f"{name}_before"), result.metrics.get(f"{name}_after")
        words = f"after cleaning no worse than before, {direction}"
        if before is None or after is None:
            reason = result.reasons.get(f"{name}_after") or result.reasons.get(f"{name}_before") or "not measured"
            checks.append(Check(f"{name}_after", SKIPPED, after, words, reason))
            continue
        harmed = after < before + slack if slack < 0 else after > before + slack
        status = WARNED if harmed else PASSED
        checks.append(Check(f"{name}_after", status, after, words, f"{before:.3g} before, {after:.3g} after"))
    return checks


def _length_check(result: QualityResult) -> list[Check]:
    """Say that a video is too short to judge; a longer one needs no such line."""
    seconds = len(result.frames) / result.video.fps
    if seconds >= ENOUGH_SECONDS:
        return []
    words = f"at least {ENOUGH_SECONDS:g} s"
    return [Check("length", WARNED, seconds, words, f"{seconds:.2f} s are too short to judge lips, motion or drift")]


def _words(allowed: Range) -> str:
    low, high = allowed
    if low is None:
        return f"at most {high:.4g}"
    if high is None:
        return f"at least {low:.4g}"
    return f"{low:.4g} to {high:.4g}"
