"""Every stage goes through one `cached`, and each option of a render changes the keys that it should, and no other."""

import re
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from flows.parameters import RenderParameters
from flows.preflight import limits_of, machine_of
from flows.render import options_of, run_key
from liveavatar import paths
from liveavatar.checkpoints.directory import read_config
from tasks import enhance, features, ingest, plan, prompt, quality, render
from tasks.inputs import InputFile, JobInputs
from tasks.stage import stage as make_stage
from tasks.store.store import Entry, Store

MINI = paths.REPO_ROOT / "data" / "models" / "mini"
VALUES: dict[str, dict[str, Any]] = {  # of entries that are not made here
    "sound": {"seconds": 2.0},
    "enhance": {"verdict": {"chosen": "raw", "reason": ""}, "text": "", "language": None},
    "portrait": {"width": 256, "height": 384, "check": None},
    "features": {"num_frames": 48},
    "prompt": {"grade": "rich", "problems": [], "heard": None},
    "render": {"collapse": None},
    "quality": {"status": "passed", "headline": "", "checks": []},
}
# Option: another value, and the stages whose key names it. The stages after those follow by the bytes that they read.
OPTIONS: dict[str, tuple[Any, set[str]]] = {
    "audio": ("other.wav", {"sound"}),
    "image": ("other.png", {"portrait"}),
    "pose_video": ("pose.csv", {"pose", "plan", "render"}),  # a plan counts its encoding; it has packages of its own
    "prompt": ("a man smiles in a dark room", {"prompt", "render"}),
    "prompt_words": ("all", {"prompt", "render"}),
    "size": ("256*384", {"portrait"}),
    "framing": ("model", {"portrait"}),
    "face": (2, {"portrait"}),
    "num_clip": (1, {"sound"}),  # cuts the sound
    "seed": (421, {"render"}),
    "sample_steps": (3, {"plan", "render"}),
    "infer_frames": (24, {"plan", "render"}),
    "fp8": (True, {"plan", "render"}),
    "kv_cache_dtype": ("int8", {"plan", "render"}),
    "enable_online_decode": (True, {"portrait", "plan", "render"}),  # live video is small; the entry holds live/
    "offload_model": (True, {"plan"}),  # nor does where weights wait
    "placement": ("single", {"plan"}),  # nor does where a step runs
    "num_gpus": (1, {"plan"}),
    "leave_memory": (6.0, set()),  # has the planner of a GPU count with less
    "denoise": ("off", {"enhance"}),
    "whisper": ("off", {"enhance"}),
    "allow_unjudged": (True, {"quality"}),
    "ignore_collapse": (True, {"render"}),
    "limits": (str(paths.REPO_ROOT / "data" / "limits.json"), {"quality"}),
}
NO_KEY = {  # option: reason
    "model": "its bytes count, not its name",
    "fps": "has one value",
    "preset": "fills other options, which count",
    "strict_portrait": "refuses before anything starts",
    "strict_prompt": "refuses before anything starts",
    "out": "the result is the same wherever it is published",
    "resume": "gives the same bits",
    "force": "makes the same again",
}


def _inputs(parameters: RenderParameters) -> JobInputs:
    def file(name: str) -> InputFile:
        return InputFile(path=Path(name), sha256=name.encode().hex().ljust(64, "0"))

    pose = None if parameters.pose_video is None else file(parameters.pose_video)
    return JobInputs(image=file(parameters.image), audio=file(parameters.audio), pose=pose)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    """Entries that the stages asked the store for, by stage; nothing is made."""
    asked: dict[str, Entry] = {}

    def build(self: Store, kind: str, key: str, make: Any, *, made_from: dict[str, Any], **_: Any) -> Entry:
        job = made_from["inputs"].get("job", {})
        dtype = job.get("settings", {}).get("kv_cache_dtype", "auto")
        planned = {"placement": "single", "own_decoder": False, "fps": 25.0, "ttff_s": 1.0, "host_gb": {"total": 1.0}}
        planned |= {"layers": [], "rings_on_host": False, "settings": {"kv_cache_dtype": dtype}}
        values = planned if kind == "plan" else VALUES.get(kind, {})
        files: dict[str, str] = defaultdict(lambda: "f" * 64)
        asked[kind] = Entry(kind=kind, key=key, folder=Path(), files=files, values=values, made_from=made_from)
        return asked[kind]

    monkeypatch.setattr(Store, "build", build)
    return asked


def _run(parameters: RenderParameters) -> None:
    """Ask every stage of a render for its entry."""
    frames = parameters.num_clip * parameters.infer_frames if parameters.num_clip else None
    sources = ingest.ingest.fn(_inputs(parameters), str(MINI), parameters.framing_request(read_config(MINI)), frames)
    cleaned = enhance.enhance.fn(sources.sound, parameters.denoise, parameters.whisper)
    driving = features.features.fn(cleaned, str(MINI))
    prompt.prompt_check.fn(parameters.prompt, parameters.words_heard(read_config(MINI)))
    job = plan.request_of(parameters.settings(), parameters.model_dump(), 256, 384, 48)
    planned = plan.plan.fn(read_config(MINI), job, machine_of(parameters))
    made = render.render.fn(
        options_of(parameters, planned.values),
        render.RenderInputs(
            model_dir=MINI, model_digest="0" * 64, sound=cleaned, features=driving, portrait=sources.portrait,
            pose=sources.pose,
        ),
    )  # fmt: skip
    quality.judge.fn(made, cleaned, sources.portrait, parameters.allow_unjudged, limits_of(parameters))


def _form(**changes: Any) -> RenderParameters:
    return RenderParameters.model_validate({"audio": "a.wav", "image": "i.png", "prompt": "p", **changes})


def test_every_option_of_a_render_has_an_entry_here() -> None:
    assert OPTIONS.keys() | NO_KEY.keys() == RenderParameters.model_fields.keys()
    assert not OPTIONS.keys() & NO_KEY.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_the_keys_of_its_stages_alone(name: str, made: dict[str, Entry]) -> None:
    value, stages = OPTIONS[name]
    _run(_form())
    before = {stage: entry.key for stage, entry in made.items()}
    made.clear()
    _run(_form(**{name: value}))
    assert {stage for stage, entry in made.items() if entry.key != before.get(stage)} == stages
    changed = _form(**{name: value})
    assert run_key(changed, _inputs(changed)).digest != run_key(_form(), _inputs(_form())).digest


@pytest.mark.parametrize(("name", "value"), [("out", "elsewhere"), ("resume", True), ("force", True)])
def test_how_and_where_a_render_runs_changes_no_key(name: str, value: Any, made: dict[str, Entry]) -> None:
    _run(_form())
    before = {stage: entry.key for stage, entry in made.items()}
    _run(_form(**{name: value}))
    assert {stage: entry.key for stage, entry in made.items()} == before
    changed = _form(**{name: value})
    assert run_key(changed, _inputs(changed)).digest == run_key(_form(), _inputs(_form())).digest


def test_every_stage_s_key_has_inputs_code_and_packages(made: dict[str, Entry]) -> None:
    _run(_form(pose_video="pose.csv"))
    assert list(made) == ["sound", "portrait", "pose", "enhance", "features", "prompt", "plan", "render", "quality"]
    for stage, entry in made.items():
        assert entry.made_from["inputs"], stage
        assert entry.made_from["code"], stage
        assert entry.made_from["packages"] or stage == "prompt", stage
        assert "absent" not in entry.made_from["packages"].values(), stage


def test_nothing_but_cached_builds_an_entry() -> None:
    builders = {
        path.relative_to(paths.REPO_ROOT).as_posix()
        for folder in ("tasks", "flows")
        for path in (paths.REPO_ROOT / folder).rglob("*.py")
        if re.search(r"\.build\(", path.read_text())
    }
    assert builders == {"tasks/stage.py"}


def test_sigterm_ends_a_stage_whatever_a_library_makes_of_it() -> None:
    @make_stage("prompt")
    def read() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as e:
            raise RuntimeError("the decoder failed") from e

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        read.fn()  # type: ignore[attr-defined]
    assert signal.signal(signal.SIGTERM, before) is signal.default_int_handler
