"""HTTP interface of the studio page: its files, uploads, checks while a job is described, and the queue.

Answers are JSON; a refusal is `{"error": one line}` with status 422. Nothing that a request holds is a path or a name
of code: inputs and runs are named by ids, models and presets by names of a list.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flows import presets
from flows.parameters import MAX_PROMPT, read_parameters
from flows.serving.studio import inputs
from flows.serving.studio.inputs import UploadTooLarge, require_input
from flows.serving.studio.jobs import JobQueue
from flows.stored_inputs import AUDIO, IMAGE, find_input
from liveavatar import config
from liveavatar.checkpoints.directory import preset_dir
from liveavatar.errors import CapacityError, InputError, LiveAvatarError
from liveavatar.files import parse_json, plain, read_json
from liveavatar.media.framing import video_size
from liveavatar.prompt.check import check_prompt
from liveavatar.prompt.heard import hear
from liveavatar.prompt.rewrite import rewrite
from tasks.catalogue import find_run
from tasks.run_folder import REPORT

log = logging.getLogger(__name__)

FILES = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
MOST_BODY = 64_000  # bytes of a request that is no upload
SEEDS = 2**31
DEFAULT_PRESET = "quality"
# Scripts, styles and data come from the page itself only, so that no text becomes code whatever it holds.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": POLICY,
}

Answer = Callable[[dict[str, Any]], Any]


def page_files() -> dict[str, Path]:
    """Map the names of the page's files to them."""
    return {path.name: path for path in FILES.iterdir() if path.suffix in KINDS}


def page_file(name: str) -> Response:
    """Answer with a file of the page; 404 for any other name."""
    path = page_files().get(name)
    if path is None:
        return PlainTextResponse("not here", status_code=404, headers=HEADERS)
    return FileResponse(path, headers=HEADERS, media_type=KINDS[path.suffix])


class Studio:
    """The studio page's part of the application."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", lambda _: page_file("index.html")),
            Route("/page/{file}", lambda request: page_file(request.path_params["file"])),
            Route("/api/options", lambda _: _json(options())),
            Route("/api/inputs/{kind}", self._upload, methods=["POST"]),
            Route("/api/previews/{id}", _preview),
            Route("/api/prompt", _posted(judged_prompt), methods=["POST"]),
            Route("/api/portrait", _posted(judged_portrait), methods=["POST"]),
            Route("/api/jobs", self._jobs),
            Route("/api/jobs", _posted(self._start), methods=["POST"]),
            Route("/api/again", _posted(self._again), methods=["POST"]),
            Route("/api/cancel", _posted(self._cancel), methods=["POST"]),
            Route("/api/go_on", _posted(self._go_on), methods=["POST"]),
        ]

    async def _upload(self, request: Request) -> Response:
        """Take a file as the body of a request; its name is in the query."""
        kind, name = request.path_params["kind"], request.query_params.get("name", "")
        if kind not in (AUDIO, IMAGE):
            return _refusal(InputError("only sounds and pictures are taken"))
        declared = request.headers.get("content-length", "0")
        try:
            temporary, digest = await inputs.receive(
                request.stream(), kind, int(declared) if declared.isascii() and declared.isdigit() else 0
            )
            stored = await run_in_threadpool(inputs.keep, temporary, digest, kind, name)
        except ClientDisconnect:
            return Response(status_code=400)
        except LiveAvatarError as e:
            return _refusal(e)
        return _json(asdict(stored), BackgroundTask(self._renew_form))

    def _renew_form(self) -> None:
        try:
            self._queue.renew_form()
        except Exception as e:  # noqa: BLE001 (whatever its client raises when the server of Prefect is away)
            log.info("the form in the Prefect UI does not name the new file (%s)", type(e).__name__)

    def _jobs(self, _: Request) -> Response:
        try:
            return _json([asdict(job) for job in self._queue.jobs()])
        except Exception as e:  # noqa: BLE001 (whatever its client raises when the server of Prefect is away)
            return _refusal(CapacityError(f"Prefect does not answer ({type(e).__name__})"))

    def _start(self, given: dict[str, Any]) -> Any:
        return {"id": self._queue.start(job_parameters(given))}

    def _again(self, given: dict[str, Any]) -> Any:
        return {"id": self._queue.start(parameters_of_run(str(given.get("run"))))}

    def _cancel(self, given: dict[str, Any]) -> Any:
        self._queue.cancel(str(given.get("id")))
        return {}

    def _go_on(self, given: dict[str, Any]) -> Any:
        self._queue.go_on(str(given.get("id")))
        return {}


def _posted(answer: Answer) -> Callable[[Request], Any]:
    """Make the handler of a request whose body is a JSON object."""

    async def handle(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BODY:
                return _refusal(UploadTooLarge("the request is too long"))
        try:
            given = parse_json(body)
            if not isinstance(given, dict):
                raise InputError("the request is no JSON object")
            return _json(await run_in_threadpool(answer, given))
        except LiveAvatarError as e:
            return _refusal(e)
        except (ValueError, RecursionError):
            return _refusal(InputError("the request is no JSON"))

    return handle


def _json(value: Any, afterwards: BackgroundTask | None = None) -> Response:
    return JSONResponse(plain(value), headers=HEADERS, background=afterwards)


def _refusal(error: LiveAvatarError) -> Response:
    status = 413 if isinstance(error, UploadTooLarge) else 503 if isinstance(error, CapacityError) else 422
    return JSONResponse({"error": str(error)}, status_code=status, headers=HEADERS)


def _preview(request: Request) -> Response:
    stored = find_input(request.path_params["id"])
    if stored is None or stored.kind != IMAGE or not stored.preview.is_file():
        return PlainTextResponse("not here", status_code=404, headers=HEADERS)
    return FileResponse(stored.preview, headers=HEADERS, media_type="image/jpeg")


def options() -> dict[str, Any]:
    """List what can be chosen: models that are here, presets, limits."""
    return {
        "models": models(),
        "presets": list(presets.NAMES),
        "preset": DEFAULT_PRESET,
        "most_bytes": inputs.MOST_BYTES,
        "most_characters": MAX_PROMPT,
    }


def models() -> list[str]:
    """List the presets of models whose weights are here."""
    names = (config.MINI.name, config.LIVE_AVATAR_14B.name)
    return [name for name in names if any(preset_dir(name).rglob("*.safetensors"))]


def judged_prompt(given: dict[str, Any]) -> dict[str, Any]:
    """Score a prompt as it is typed; an empty one has every facet missing."""
    text, model = _text(given, "prompt")[:MAX_PROMPT], config.PRESETS[_model(given)]
    try:
        judged = check_prompt(text)
    except InputError as e:
        return {"score": 0.0, "grade": "empty", "error": str(e)}
    words = model.text.words_read
    heard = None if words is None else asdict(hear(text, words))
    return asdict(judged) | {"heard": heard, "rewrite": rewrite(text, judged)}


def judged_portrait(given: dict[str, Any]) -> dict[str, Any]:
    """Say how a stored picture will be framed and whether it will speak."""
    stored = require_input(_text(given, "image"), IMAGE)
    return inputs.judge_stored(stored, _model(given), _whole(given, "face", 1))


def job_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Make the parameters of a render from what the page sends: ids of inputs, prompt, model, preset, seed, face.

    Raises:
        InputError: an input is gone, or an option is wrong.
    """
    sound, picture = require_input(_text(given, "audio"), AUDIO), require_input(_text(given, "image"), IMAGE)
    watched = bool(given.get("watch", True))
    options = {
        "audio": str(sound.path),
        "image": str(picture.path),
        "prompt": _text(given, "prompt"),
        "model": _model(given),
        "preset": _text(given, "preset") or DEFAULT_PRESET,
        "seed": _whole(given, "seed", random.randrange(SEEDS)),
        "face": _whole(given, "face", 1),
        "enable_online_decode": watched,
    }
    parameters = read_parameters(options)
    keeps = config.PRESETS[parameters.model].framing == config.FRAME_FACE
    if watched and keeps and parameters.size is None and picture.width and picture.height:
        width, height = video_size(picture.width, picture.height, None)
        options["size"] = f"{width}*{height}"  # live output would else have the model's size
    return options


def parameters_of_run(run_id: str) -> dict[str, Any]:
    """Make the parameters of a published run with another seed, to be published in a folder of its own.

    Raises:
        InputError: the run or one of its files is gone.
    """
    run = find_run(run_id)
    path = None if run is None else run.file(REPORT)
    if path is None:
        raise InputError("this run is no longer here, or was made again in the meantime")
    old = read_json(path)["parameters"]
    for option in ("audio", "image", "pose_video"):
        if old.get(option) and not Path(old[option]).is_file():
            raise InputError(f"{Path(old[option]).name} of this run is no longer where it was; drop it again")
    changed = {"seed": random.randrange(SEEDS), "out": None, "resume": False, "force": False}
    options = {name: value for name, value in {**old, **changed}.items() if value is not None}
    read_parameters(options)
    return options


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    return value if isinstance(value, str) else ""


def _whole(given: dict[str, Any], name: str, default: int) -> int:
    value = given.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _model(given: dict[str, Any]) -> str:
    """Read the name of a model that is here.

    Raises:
        InputError: it is another.
    """
    name, here = _text(given, "model") or config.MINI.name, models()
    if name not in here:
        raise InputError(f"the model {name[:40]!r} is not here; choose one of {', '.join(here)}")
    return name
