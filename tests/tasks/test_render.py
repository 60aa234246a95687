"""What a cached render depends on, and which engine makes it."""

import ast
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.parameters import RenderParameters
from liveavatar.checkpoints.directory import read_config
from liveavatar.config import LIVE_AVATAR_14B, ModelConfig
from liveavatar.engine.memory import MemoryReading
from liveavatar.engine.settings import RenderSettings
from liveavatar.paths import REPO_ROOT
from liveavatar.render.collapse import SHORTEST
from liveavatar.render.job import Progress
from tasks import render as render_module
from tasks.cluster.replicas import NoGpuLeft, Replicas
from tasks.enhance import CLEANED
from tasks.events import Event, listening
from tasks.features import FEATURES
from tasks.ingest import PORTRAIT, POSE
from tasks.plan import kv_dtype_of
from tasks.render import (
    FACE_PACKAGES,
    GPU_PACKAGES,
    PACKAGES,
    ProgressBoard,
    RenderInputs,
    RenderOptions,
    engine_spec,
    job_packages,
    render,
    render_key,
    run_on_engine,
)
from tasks.render_code import FACE, FAST, RenderCode
from tasks.store.store import Entry, Store

OTHER_SETTINGS: dict[str, Any] = {
    "prompt_words": "all",
    "prompt": "a lively man",
    "seed": 421,
    "sample_steps": 3,
    "infer_frames": 60,
    "kv_cache_dtype": "int8",
    "fp8": True,
}
OTHER_OPTIONS = {
    "online": True,
    "offload": True,
    "rings_on_host": True,
    "ranks": 2,
    "own_decoder": True,
    "layers": (20, 20),
    "leave_gb": 6.0,
    "resume": True,
    "force": True,
    "ignore_collapse": True,
}
MINI = REPO_ROOT / "data" / "models" / "mini"
CHANGES_THE_KEY = dict.fromkeys(OTHER_OPTIONS, False) | {"online": True, "ignore_collapse": True}
OPTIONS = RenderOptions(settings=RenderSettings(prompt="a calm woman"), online=False)


def entry(digest: str) -> Entry:
    files = dict.fromkeys((CLEANED, FEATURES, PORTRAIT, POSE), digest * 64)
    return Entry(kind="any", key="0" * 64, folder=Path(), files=files, values={"num_frames": 48})


INPUTS = RenderInputs(model_dir=MINI, model_digest="0" * 64, sound=entry("1"), features=entry("2"), portrait=entry("3"))


def config_dir(folder: Path, config: ModelConfig) -> Path:
    """A model directory without weights."""
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    return folder


def key(options: RenderOptions = OPTIONS, **inputs: Any) -> str:
    return render_key(options, replace(INPUTS, **inputs)).digest


@pytest.mark.parametrize("name", [field.name for field in fields(RenderSettings)])
def test_every_setting_changes_the_key(name: str) -> None:
    assert getattr(OPTIONS.settings, name) != OTHER_SETTINGS[name]
    changed = replace(OPTIONS, settings=replace(OPTIONS.settings, **{name: OTHER_SETTINGS[name]}))
    assert key(changed) != key()


@pytest.mark.parametrize("name", [field.name for field in fields(RenderOptions) if field.name != "settings"])
def test_how_a_render_is_run_changes_the_key_only_where_it_changes_the_files(name: str) -> None:
    assert getattr(OPTIONS, name) != OTHER_OPTIONS[name]
    assert (key(replace(OPTIONS, **{name: OTHER_OPTIONS[name]})) != key()) == CHANGES_THE_KEY[name]


@pytest.mark.parametrize("name", ["model_digest", "sound", "features", "portrait", "pose"])
def test_every_input_changes_the_key(name: str) -> None:
    assert key(**{name: "9" * 64 if name == "model_digest" else entry("9")}) != key()


def test_a_model_is_known_by_its_bytes_not_by_its_folder(tmp_path: Path) -> None:
    copied = config_dir(tmp_path / "elsewhere", read_config(MINI))
    assert key(model_dir=copied) == key()


def test_where_weights_wait_changes_no_key_of_a_model_that_takes_the_fast_path_anyway(tmp_path: Path) -> None:
    large = config_dir(tmp_path / "large", LIVE_AVATAR_14B)
    assert key(replace(OPTIONS, offload=True), model_dir=large) == key(model_dir=large) != key()


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("faces", [False, True])
def test_packages_count_where_they_run(on_gpu: bool, faces: bool) -> None:
    left_out = (*(() if on_gpu else (FAST,)), *(() if faces else (FACE,)))
    code = RenderCode(modules=("liveavatar.engine",), left_out=left_out)
    expected = {*PACKAGES, *(GPU_PACKAGES if on_gpu else ()), *(FACE_PACKAGES if faces else ())}
    assert set(job_packages(code)) == expected


@pytest.mark.parametrize(
    ("num_frames", "ignore_collapse", "counts"),
    [
        pytest.param(SHORTEST, False, True, id="a long video, whose faces are watched"),
        pytest.param(SHORTEST - 1, False, False, id="too short to be watched"),
        pytest.param(SHORTEST, True, False, id="rendered to the end anyway"),
    ],
)
def test_likeness_counts_where_it_may_end_the_video(num_frames: int, ignore_collapse: bool, counts: bool) -> None:
    inputs = replace(INPUTS, features=replace(entry("2"), values={"num_frames": num_frames}))
    made = render_key(replace(OPTIONS, ignore_collapse=ignore_collapse), inputs)
    assert ("liveavatar/face/embedding.py" in made.code, "ai-edge-litert" in made.packages) == (counts, counts)


def test_one_engine_serves_jobs_of_any_settings_but_8_bit_layers() -> None:
    specs = {
        name: engine_spec(MINI, "0" * 64, replace(OPTIONS, settings=replace(OPTIONS.settings, **{name: value})))
        for name, value in OTHER_SETTINGS.items()
    }
    base = engine_spec(MINI, "0" * 64, OPTIONS)
    assert [name for name, spec in specs.items() if spec != base] == ["fp8"]


@pytest.mark.parametrize("planned", [True, False])
def test_an_engine_that_loses_gpus_is_planned_again_and_keeps_its_model(
    planned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Host:
        def __init__(self, spec: Any, replan: Any) -> None:
            made.extend((spec, replan))

        def render(self, job: Any, on_progress: Any, on_loaded: Callable[[float], None], interruption: Any) -> str:
            on_loaded(1.0)
            return "result"

    def replan(num_gpus: int) -> RenderOptions:
        return RenderOptions(settings=OPTIONS.settings, online=False, ranks=num_gpus, own_decoder=True)

    monkeypatch.setattr("tasks.cluster.host.EngineHost", Host)
    spec = replace(engine_spec(MINI, "0" * 64, replace(OPTIONS, ranks=4, leave_gb=6.0)), replica=3)
    outcome = run_on_engine(spec, "job", print, replan if planned else None)  # type: ignore[arg-type]
    assert outcome.load_s == 1.0
    assert made[0] == spec
    assert (made[1] and made[1](2)) == (replace(spec, ranks=2, own_decoder=True) if planned else None)


def test_a_form_carries_every_setting() -> None:
    assert set(OTHER_SETTINGS) == {field.name for field in fields(RenderSettings)}
    form = RenderParameters.model_validate({"audio": "a", "image": "i", **OTHER_SETTINGS})
    assert asdict(form.settings()) == OTHER_SETTINGS
    defaults = RenderParameters.model_validate({"audio": "a", "image": "i", "prompt": "p"}).settings()
    assert defaults == RenderSettings(prompt="p"), "form and settings have the same defaults"


@pytest.mark.parametrize(
    ("plan", "dtype"),
    [
        pytest.param({"settings": {"kv_cache_dtype": "fp8"}}, "fp8", id="the planner chose"),
        pytest.param({"settings": {}}, "auto", id="there is no choice"),
    ],
)
def test_the_plan_settles_the_precision_of_keys_and_values(plan: dict[str, Any], dtype: str) -> None:
    from flows.render import options_of

    form = RenderParameters.model_validate({"audio": "a", "image": "i", "prompt": "p"})
    planned = {"placement": "single", "own_decoder": False, "layers": [], "rings_on_host": False, **plan}
    assert kv_dtype_of(planned) == dtype
    assert options_of(form, planned).settings == replace(form.settings(), kv_cache_dtype=dtype)


def declared_in(names: set[str]) -> dict[str, set[str]]:
    """Classes of a render's way that declare any of these fields, by field."""
    found: dict[str, set[str]] = {name: set() for name in names}
    rooms = (
        "flows",
        "tasks",
        *(f"liveavatar/{room}" for room in ("engine", "render", "fast", "distributed", "planning")),
    )
    for path in (path for room in rooms for path in (REPO_ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for line in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id in names:
                    found[line.target.id].add(node.name)
    return found


def test_a_setting_is_declared_in_the_form_and_in_the_settings_only() -> None:
    others = {
        "fp8": {"EngineSpec", "RankSpec", "Backend"},  # an engine's weights are loaded in 8 bits before any job
        "kv_cache_dtype": {"RunnerKey"},  # of captured CUDA graphs
        "prompt": {"Results"},  # entry of the stage that checks the prompt
    }
    for name, classes in declared_in(set(OTHER_SETTINGS)).items():
        assert classes - others.get(name, set()) == {"RenderParameters", "RenderSettings"}, name


def test_a_render_that_waits_for_another_run_heeds_the_interruption_of_its_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[Callable[[], None]] = []

    def build(self: Store, kind: str, key: str, make: Any, *, while_waiting: Callable[[], None], **_: Any) -> Entry:
        waits.append(while_waiting)
        return entry("5")

    monkeypatch.setattr(Store, "build", build)
    replicas = Replicas(2)
    render.fn(OPTIONS, INPUTS, replicas)
    render.fn(OPTIONS, INPUTS)
    replicas.interruption.interrupt()
    with pytest.raises(KeyboardInterrupt):
        waits[0]()
    waits[1]()


@dataclass(frozen=True)
class Job:
    resume: bool = False


def test_a_job_whose_engine_has_no_gpu_any_more_is_resumed_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[int, bool]] = []

    def run_on_engine(spec: Any, job: Any, *_: Any, **__: Any) -> Any:
        runs.append((spec.replica, job.resume))
        if spec.replica == 0:
            raise NoGpuLeft("no GPU is left", "wait")
        return SimpleNamespace(result=SimpleNamespace(first_block=0, notes=()), facts=lambda: {"done": True})

    def build(self: Store, kind: str, key: str, make: Any, **_: Any) -> Entry:
        return replace(entry("5"), values=make(tmp_path))

    monkeypatch.setattr(Store, "build", build)
    for name in ("move_products", "announce_playlist"):
        monkeypatch.setattr(render_module, name, lambda *_: None)
    monkeypatch.setattr(render_module, "describe_job", lambda *_: Job())
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path / "home"))
    inputs = replace(INPUTS, features=replace(INPUTS.features, values={"num_frames": 25}))
    monkeypatch.setattr(render_module, "run_on_engine", run_on_engine)
    replicas = Replicas(2)
    assert render.fn(OPTIONS, inputs, replicas).values == {"done": True}
    assert runs == [(0, False), (1, True)]
    render.fn(OPTIONS, inputs, replicas)
    assert runs[2:] == [(1, False)], "the other engine is given up"


ROOMY, FULL = MemoryReading(1.2, 3.1, 16.0, 20.0, 24.0, 3.0), MemoryReading(1.2, 3.1, 16.0, 23.8, 24.0, 0.2)


def test_memory_is_told_with_the_progress_and_its_end_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def artifact(*_: Any, **facts: Any) -> str:
        told.append(facts)
        return "id"

    heard: list[Event] = []
    monkeypatch.setattr(render_module, "recorded", lambda make: make())
    monkeypatch.setattr(render_module, "create_progress_artifact", artifact)
    monkeypatch.setattr(render_module, "update_progress_artifact", artifact)
    monkeypatch.setattr(render_module, "ARTIFACT_SECONDS", 0.0)
    board = ProgressBoard()
    with listening(heard.append):
        for done, reading in enumerate((ROOMY, FULL, FULL, ROOMY), 1):
            board.show(Progress(phase="render", done=done, total=4, fps=20.0, memory=(reading,)))
    assert [event.memory for event in heard if event.kind == "progress"] == [(ROOMY,), (FULL,), (FULL,), (ROOMY,)]
    (warning,) = [event.text for event in heard if event.kind == "note"]
    assert warning.startswith("the GPU of rank 0 is nearly full: 23.8 of 24.0 GB")
    lines = [facts["description"].splitlines() for facts in told]
    assert lines[0] == ["render", "1.2 GB, GPU 20.0 of 24.0 GB; machine 3.1 of 16.0 GB"]
    assert lines[1] == ["render", "1.2 GB, GPU 23.8 of 24.0 GB; machine 3.1 of 16.0 GB", warning]
    assert lines[3][2:] == [warning], "it stays to be read"
    assert [facts["progress"] for facts in told] == [25, 50, 75, 100]
    board.finish()
    assert len(told) == 4, "all was shown"


def test_a_finished_render_shows_all_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(render_module, "recorded", lambda make: make())
    for name in ("create_progress_artifact", "update_progress_artifact"):
        monkeypatch.setattr(render_module, name, lambda *_, progress, **__: told.append(progress) or "id")
    board = ProgressBoard()
    board.finish()
    assert told == [], "its blocks came from the store"
    board.show(Progress(phase="render", done=1, total=4, fps=20.0, memory=(ROOMY,)))
    board.finish()  # the others came between two looks at the engine
    assert told == [25, 100]
