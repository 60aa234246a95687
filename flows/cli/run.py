"""Subcommands that run flows: each opens a Prefect server and a Ray for as long as it needs them."""

import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows import preflight
from flows.cli.options import REQUIRED
from flows.job_check import check_columns, name_outputs
from flows.job_table import read_manifest
from flows.parameters import RenderParameters, read_parameters
from flows.serving import environment
from flows.serving.prefect_server import PrefectServer, run_dir
from flows.serving.process_record import own_process, process_of
from flows.sweep_jobs import check_jobs, sweep_jobs
from flows.terminal import Terminal, say
from liveavatar import paths
from liveavatar.checkpoints.directory import resolve_model_dir
from liveavatar.errors import CapacityError, InputError
from liveavatar.files import read_json, write_json
from liveavatar.isolation.caller import isolated
from tasks.cluster.address import cluster_address
from tasks.inputs import JobInputs
from tasks.run_folder import MANIFEST

log = logging.getLogger(__name__)

Options = dict[str, Any]
ASK_SECONDS = 10.0  # between two requests to end
ASK_POLL = 0.1
MAX_LINES = 6  # checks named on the terminal
MAX_REPLICAS = 64


def render(options: Options) -> int:
    """Render one job, or that of a manifest again."""
    source = options.pop("from_manifest", None)
    if options.pop("demo", False):
        options = demo() | options
    if source is not None:
        return _render_again(Path(source), options)
    missing = [f"--{name}" for name in REQUIRED if name not in options]
    if missing:
        raise InputError(f"the following arguments are required: {', '.join(missing)}; see `liveavatar render --help`")
    return _render(options, conclude)


def demo() -> Options:
    """Return the options of the sample: sound, portrait and prompt, and where its video goes."""
    prompt = (paths.SAMPLES / "prompt.txt").read_text().strip()
    sound, portrait = (str(paths.SAMPLES / name) for name in ("speech.wav", "portrait.png"))
    return {"audio": sound, "image": portrait, "prompt": prompt, "out": str(paths.outputs() / "demo")}


def _render_again(source: Path, given: Options) -> int:
    """Render the job of a manifest; 1 when it makes other bits."""
    from flows.again import compare, read_again

    options, before = read_again(source, given)

    def compared(outcome: dict[str, Any]) -> int:
        failed = conclude(outcome)
        after, stages = read_json(Path(outcome["out"]) / MANIFEST), outcome["report"]["stages"]
        same, line = compare(before, after, cached=stages["render"]["cached"])
        say(line)
        return failed or int(not same)

    return _render(options, compared)


def _render(options: Options, end: Callable[[dict[str, Any]], int]) -> int:
    parameters = read_parameters(options)
    inputs = preflight.check(parameters)
    if parameters.audio == preflight.PIPE:
        return _render_pipe(parameters, inputs)
    with at_work("render"), Terminal() as terminal, PrefectServer() as server, ray_session():
        server.wait_for_joined()
        if not server.owned:
            terminal.note("prefect", server.ui_url)
        if server.ray:
            os.environ.setdefault("RAY_ADDRESS", server.ray)  # the engines of `liveavatar serve` are loaded
        from flows.render import begin, remembers, run_render

        if not remembers(parameters, inputs):
            begin(parameters)  # the model loads while the server starts and the sound is cleaned
        await_server(server)
        return end(run_render(parameters, inputs))


def _render_pipe(parameters: RenderParameters, inputs: JobInputs) -> int:
    """Render the sound of standard input."""
    from liveavatar.media.pcm import PcmPipe

    pipe = PcmPipe.open(sys.stdin)  # refuses before anything starts
    with at_work("render"), Terminal(), PrefectServer() as server, ray_session():
        server.wait_for_joined()
        if server.ray:
            os.environ.setdefault("RAY_ADDRESS", server.ray)
        from flows.render import begin
        from flows.render_pipe import listen, pipe_flow
        from flows.run_record import result_of
        from tasks.render_pipe import discard

        listener = listen(parameters, pipe)
        try:
            begin(preflight.for_pipe(parameters))
            await_server(server)
            return conclude(result_of(pipe_flow(listener, inputs), parameters))
        finally:
            listener.stop()
            if not (listener.folder / "heard.wav").exists():
                discard(listener)


def conclude(outcome: dict[str, Any]) -> int:
    """Print the result of a render; 1 when its quality failed."""
    from flows.run_record import worst_first

    report, out = outcome["report"], Path(outcome["out"])
    timing, status = report["timing"], outcome["status"]
    noted = worst_first(report["checks"])
    if report.get("headline"):
        say(report["headline"])
    for check in noted[:MAX_LINES]:
        say(f"{check['status']}: {check['name']}: {check['reason']}")
    if len(noted) > MAX_LINES:
        say(f"and {len(noted) - MAX_LINES} more, see the report")
    say(
        f"{out / 'video.mp4'}: {status}; {timing['fps']:.1f} frames/s, {timing['cached_tasks']} of 8 stages cached, "
        f"{timing['total_s']:.1f} s; see {out / 'report.html'}"
    )
    return int(status == "failed")


def sweep(options: Options) -> int:
    """Sweep one job, or the evaluation split, over sampling steps and sizes."""
    as_json, steps, sizes = options.pop("json"), options.pop("steps"), options.pop("sizes")
    split, clips = options.pop("split"), options.pop("clips")
    numbers = [int(s) for s in parse_list(steps, "--steps", r"[1-8]", "numbers from 1 to 8, such as 3,4,5,6")]
    if split is not None:
        return _sweep_evaluation(options, numbers, clips, as_json)
    parameters = read_parameters(options)
    areas: list[str | None] = [parameters.size]
    if sizes:
        areas = [*parse_list(sizes, "--sizes", r"\d+\*\d+", 'sizes such as "384*256"')]
    preflight.refuse_pipe(parameters)
    jobs = sweep_jobs(parameters, numbers, areas)
    check_jobs(jobs)
    inputs = preflight.check(jobs[0])
    with at_work("sweep"), Terminal(), PrefectServer() as server, ray_session():
        server.wait_for_joined()
        from flows.run_record import result_of
        from flows.sweep import print_table, sweep_flow

        await_server(server)
        table = result_of(sweep_flow(inputs), parameters, numbers, areas)
        print_table(table, as_json)
    return int(any(row["status"] == "failed" for row in table["rows"]))


def _sweep_evaluation(options: Options, steps: list[int], clips: int | None, as_json: bool) -> int:
    """Sweep the evaluation split, which brings its own sounds, portraits and prompts."""
    model, out = options.pop("model", "mini"), options.pop("out", paths.outputs() / "sweep-evaluation")
    if options:
        raise InputError(f"--split evaluation takes --model, --steps, --clips and --out; drop --{next(iter(options))}")
    from liveavatar.quality.split import load_split

    resolve_model_dir(model)
    load_split(limit=clips)
    with at_work("sweep"), Terminal(), PrefectServer() as server:
        server.wait_for_joined()
        from flows.run_record import result_of
        from flows.sweep import print_table, sweep_evaluation

        await_server(server)
        print_table(result_of(sweep_evaluation, model, steps, clips, str(out)), as_json)
    return 0


def parse_list(text: str, option: str, pattern: str, form: str) -> list[str]:
    """Split a comma-separated option, without repeats.

    Raises:
        InputError: a part does not match `pattern`.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not re.fullmatch(pattern, part)]
    if wrong or not parts:
        raise InputError(f"{option} {text!r}: {wrong[0] if wrong else 'nothing'!r} is wrong; give {form}")
    return list(dict.fromkeys(parts))


def batch(options: Options) -> int:
    """Render a table of jobs."""
    as_json, manifest = options.pop("json"), Path(options.pop("manifest"))
    # Of the table; every job gets a folder below.
    out = options.pop("out", None) or str(paths.outputs() / manifest.stem)
    rows = isolated(read_manifest, manifest, options)
    check_columns(rows)
    jobs = name_outputs(rows, Path(out))
    replicas = _replicas(options, len(jobs))
    with at_work("batch"), Terminal(), PrefectServer() as server, ray_session():
        server.wait_for_joined()
        from flows.batch import batch as flow
        from flows.batch import print_outcomes
        from flows.run_record import result_of

        await_server(server)
        return print_outcomes(result_of(flow, jobs, out, replicas), as_json)


def _replicas(options: Options, most: int) -> int:
    """Count the engines of a batch: one, unless `--placement replicas` asks for one a GPU, or for `--num_gpus`."""
    if options.get("placement") != "replicas":
        return 1
    from tasks.store.machine import accelerators

    count = str(options.get("num_gpus") or len(accelerators()) or 1)
    if not count.isdigit() or not 1 <= int(count) <= MAX_REPLICAS:
        raise InputError(f"--num_gpus {count}: give a number from 1 to {MAX_REPLICAS}")
    return min(int(count), most)


def regress(options: Options) -> int:
    """Compare the golden jobs with their baselines."""
    with at_work("regress"), Terminal(), PrefectServer() as server, ray_session():
        server.wait_for_joined()
        from flows.regression import GOLDEN, print_verdict
        from flows.regression import regression as flow
        from flows.run_record import result_of

        await_server(server)
        golden = str(options["golden"] or GOLDEN)
        only = [name.strip() for name in options["only"].split(",") if name.strip()]
        verdict = result_of(flow, golden, options["update"], options["junit"] or "", options["reason"], only)
        return print_verdict(verdict, options["json"])


def serve(options: Options) -> int:
    """Serve Prefect and the deployments until Ctrl-C."""
    if os.environ.get("PREFECT_API_URL") is None and _runs("serve"):
        raise InputError("`liveavatar serve` runs already; end it with `liveavatar stop`")
    with (
        Terminal(stage=""),  # for warnings: Prefect's own handler, of all loggers, would be silent
        at_work("serve-start"),
        PrefectServer(ui=True, port=options["port"]) as server,
        ray_session(),
    ):
        server.wait()
        from flows.serving.deployments import serve_all
        from flows.serving.live_page import LivePage
        from flows.serving.lost_runs import Watch
        from tasks.cluster.head import SESSION, connect, keep_running

        address = connect()
        os.environ["RAY_ADDRESS"] = address  # renders started from the UI share its engines
        page = LivePage(options["live_port"], options["live_host"])
        paths.serve_page_at(page.url)
        rays, ending = [address], threading.Event()
        with (
            at_work("serve", url=server.url, ray=address, rays=rays, live=page.url) as record,
            page,
            Watch(unknown=server.owned),
        ):

            def note(new: str) -> None:
                rays.append(new)
                write_json(record, {**read_json(record), "ray": new, "rays": rays})

            if SESSION.local:
                threading.Thread(target=keep_running, args=(ending, note), daemon=True).start()
            say(f"Prefect UI: {server.ui_url}   (deployments: render, batch, sweep, regression; Ctrl-C ends it)")
            say(f"studio page: {page.opening_url}   (make a video, watch it while it renders, compare results)")
            try:
                serve_all(own=server.owned)
            finally:
                ending.set()
    return 0


def stop(options: Options) -> int:
    """End everything that runs here; renders stay resumable."""
    import psutil

    ended = 0
    for record in sorted(run_dir().glob("*.json")):
        process = process_of(record)
        if process is None:
            record.unlink(missing_ok=True)
            continue
        family = process.children(recursive=True)
        _terminate(process, options["wait"])
        for survivor in (p for p in (process, *family) if _alive(p)):
            with contextlib.suppress(psutil.Error):
                survivor.kill()
        record.unlink(missing_ok=True)
        ended += 1
        say(f"ended {record.stem.rsplit('-', 1)[0]} (process {process.pid})")
    if not ended:
        say("nothing runs")
    return 0


def _terminate(process: Any, seconds: float) -> None:
    """Ask a process to end, again every few seconds: one that is just starting may miss the first call."""
    started = last_ask = 0.0
    while _alive(process) and (not started or time.monotonic() - started < seconds):
        now = time.monotonic()
        started = started or now
        if now - last_ask > ASK_SECONDS:
            last_ask = now
            process.terminate()  # SIGINT is ignored by a command started in the background
        time.sleep(ASK_POLL)


def _alive(process: Any) -> bool:
    """Tell if a process still runs; a zombie, which only waits to be collected by its parent, does not."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


@contextlib.contextmanager
def at_work(what: str, **facts: Any) -> Iterator[Path]:
    """Record this process for `liveavatar stop` and for `liveavatar render` beside `serve`; yield the record."""
    cluster_address()
    record = run_dir() / f"{what}-{os.getpid()}.json"
    try:
        run_dir().mkdir(parents=True, exist_ok=True)
        environment.guard_ray()
        record.write_text(json.dumps({**own_process(), **facts}))
    except OSError as e:
        reason = f"it cannot be written ({e.strerror})"
        raise CapacityError(f"{paths.home()}: {reason}; free space, or set LIVEAVATAR_HOME to another folder") from e
    try:
        yield record
    finally:
        record.unlink(missing_ok=True)


def await_server(server: PrefectServer) -> None:
    """Return when the server answers; runs whose process is gone get their state meanwhile."""
    server.wait()
    from flows.serving.lost_runs import settle_quietly

    threading.Thread(target=settle_quietly, daemon=True, name="lost-runs").start()


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Bound the life of a Ray for several renders: started by the first that needs it, ended here."""
    environment.survive_head()
    try:
        yield
    finally:
        if "tasks.cluster.head" in sys.modules:
            sys.modules["tasks.cluster.head"].disconnect()


def _runs(what: str) -> bool:
    return any(process_of(record) for record in run_dir().glob(f"{what}-*.json"))
