"""One job, or the evaluation split, over sampling steps and sizes -> a comparison.

It goes to the terminal, to parquet, to a page with charts, and to Prefect as table artifacts.
"""

import io
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from flows.cancelling import unless_cancelled
from flows.parameters import SIZE, SWEPT_STEPS, RenderParameters, given_parameters
from flows.serving import environment
from flows.terminal import say
from liveavatar.checkpoints.directory import resolve_model_dir
from liveavatar.files import disk_errors, write_atomically

environment.import_prefect()

from prefect import Flow, flow  # noqa: E402 (Prefect reads the environment when it is imported)
from prefect.artifacts import create_table_artifact  # noqa: E402
from prefect.states import State  # noqa: E402

from flows.preflight import check, claim_output  # noqa: E402
from flows.render import render_flow  # noqa: E402
from flows.run_name import render_name  # noqa: E402
from flows.run_record import named, result_of, state_of, worst_first  # noqa: E402
from flows.serving.lost_runs import note_run  # noqa: E402
from flows.sweep_jobs import check_jobs, sweep_jobs  # noqa: E402
from liveavatar.bench.quality.steps import sweep_split  # noqa: E402
from liveavatar.report.sweep_page import sweep_page  # noqa: E402
from tasks import events  # noqa: E402
from tasks.bookkeeping import recorded  # noqa: E402
from tasks.inputs import JobInputs  # noqa: E402

MEASURES = ("sync_error_frames", "av_offset_frames", "texture_psnr", "jerk_index", "identity_min")
STEPS = list(SWEPT_STEPS)
NO_SIZES: list[str] = []
Steps = Annotated[int, Field(ge=1, le=8)]
Size = Annotated[str, Field(pattern=SIZE.pattern)]
TIMES = ("ms_per_frame", "fps", "ttff_s")


def _sweep_name(given: dict[str, Any]) -> str:
    return f"sweep-{render_name(given)}"


@flow(  # the job is read here: Prefect's own check would name a wrong option without its value
    name="sweep",
    flow_run_name=named(_sweep_name),
    persist_result=False,
    on_running=[note_run],
    validate_parameters=False,
)
def sweep(
    parameters: RenderParameters,
    steps: Annotated[list[Steps], Field(min_length=1)] = STEPS,
    sizes: list[Size] = NO_SIZES,
) -> State[dict[str, Any]]:
    """Render one job with every number of steps at every size.

    Args:
        parameters: the job.
        steps: values of `sample_steps`.
        sizes: values of `size`; an empty list is the size of the job.

    Returns:
        a state, Failed when the quality of any render failed, with `rows` (a dictionary a render) and `out` (folder
        with sweep.parquet, sweep.html and the renders).

    Raises:
        InputError: the job, or one of the sizes, cannot be rendered; nothing was.
    """
    job = given_parameters(parameters)
    return unless_cancelled(lambda: _sweep_state(sweep_job(job, steps, [*sizes] or [job.size])))


def sweep_flow(inputs: JobInputs) -> Flow[[RenderParameters, list[int], list[str | None]], State[dict[str, Any]]]:
    """Make the sweep flow of a command that has checked the inputs already; they come in through a closure."""

    @flow(name="sweep", flow_run_name=named(_sweep_name), persist_result=False, on_running=[note_run])
    def sweep(parameters: RenderParameters, steps: list[int], sizes: list[str | None]) -> State[dict[str, Any]]:
        """Render one job with every number of steps at every size."""
        return unless_cancelled(lambda: _sweep_state(sweep_job(parameters, steps, sizes, inputs)))

    return sweep


def _sweep_state(table: dict[str, Any]) -> State[dict[str, Any]]:
    noted = worst_first(table["rows"])
    reasons = [f"{row['steps']} steps at {row['size']} {row['status']}" for row in noted]
    status = noted[0]["status"] if noted else "passed"
    return state_of(status, table, reasons, f"{len(table['rows'])} renders in {table['out']}")


def sweep_job(
    parameters: RenderParameters, steps: list[int], sizes: list[str | None], inputs: JobInputs | None = None
) -> dict[str, Any]:
    """Render one job with every number of steps at every size; see `sweep`."""
    out = claim_output(parameters)
    jobs = sweep_jobs(parameters, steps, sizes, out)
    if inputs is None:
        check_jobs(jobs)
        inputs = check(jobs[0])
    render = render_flow(inputs)
    rows = [_row(job.sample_steps, job.size, result_of(render, job)["report"]) for job in jobs]
    write_tables(out, rows)
    recorded(lambda: create_table_artifact(table=rows, key="sweep", description="sampling steps and sizes compared"))
    return {"rows": rows, "out": str(out)}


def _note(text: str) -> None:
    events.emit(events.Event(kind="note", stage="sweep", text=text))


@flow(name="sweep-evaluation", persist_result=False, on_running=[note_run])
def sweep_evaluation(model: str, steps: list[int], clips: int | None, out: str) -> State[dict[str, Any]]:
    """Judge a model on the evaluation split with every number of steps.

    Args:
        model: preset or model directory.
        steps: values of `sample_steps`.
        clips: of the split; all when None.
        out: folder for sweep.parquet, sizes.parquet and sweep.html.

    Returns:
        a state with `rows` (one a number of steps), `sizes` (one a size, with the steps that it needs) and `out`.
    """
    return unless_cancelled(lambda: _evaluation_state(model, steps, clips, out))


def _evaluation_state(model: str, steps: list[int], clips: int | None, out: str) -> State[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    for rows, sizes in sweep_split(resolve_model_dir(model), steps, clips, _note):
        write_tables(Path(out), rows, sizes)  # a sweep that is cut keeps what it has
    recorded(
        lambda: create_table_artifact(
            table=rows, key="sweep-evaluation", description="sampling steps on the evaluation split"
        )
    )
    recorded(lambda: create_table_artifact(table=sizes, key="sweep-sizes", description="sizes and the steps they need"))
    table = {"rows": rows, "sizes": sizes, "out": out}
    return state_of("passed", table, [], f"{len(rows)} numbers of steps in {out}")


def _row(steps: int, size: str | None, report: dict[str, Any]) -> dict[str, Any]:
    image = report["inputs"]["image"]
    return {
        "steps": steps,
        "size": size or f"{image['width']}*{image['height']}",
        **{name: report["metrics"].get(name) for name in MEASURES},
        **{name: report["timing"][name] for name in TIMES},
        "status": report["status"],
    }


def print_table(table: dict[str, Any], as_json: bool) -> None:
    """Print the rows."""
    if as_json:
        say(json.dumps(table, indent=2))
        return
    _print_rows(table["rows"])
    if table.get("sizes"):
        say("")
        _print_rows(table["sizes"])
    say(f"{table['out']}/sweep.html")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    cells = [columns] + [[_cell(row[c]) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        say("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else str(value)


def write_tables(out: Path, rows: list[dict[str, Any]], sizes: list[dict[str, Any]] | None = None) -> None:
    """Write sweep.parquet, sizes.parquet and sweep.html; a full disk keeps the files that were there.

    Raises:
        CapacityError: the disk is full.
    """
    import pandas as pd

    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, table in (("sweep.parquet", rows), ("sizes.parquet", sizes)):
            if table:
                packed = io.BytesIO()
                pd.DataFrame(table).to_parquet(packed, index=False)
                write_atomically(out / name, packed.getvalue())
        write_atomically(out / "sweep.html", sweep_page(rows, sizes).encode())
