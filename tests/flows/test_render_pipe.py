"""Sound from a pipe: recorded for the clips that are asked for, rendered in one process, published as it was heard."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows import render
from flows import render_pipe as flow
from flows.counters import read_counters
from flows.parameters import RenderParameters
from liveavatar import paths
from liveavatar.media.pcm import PcmPipe
from tasks.enhance import CLEANED
from tasks.inputs import InputFile, JobInputs
from tasks.publish import PublishedRun
from tasks.store.store import Entry

INPUTS = JobInputs(image=InputFile(path=Path("i"), sha256="1" * 64))


def form(**changes: Any) -> RenderParameters:
    given = {"audio": "-", "image": "i", "prompt": "p", "model": str(paths.MINI_DIR), **changes}
    return RenderParameters.model_validate(given)


@pytest.mark.parametrize(
    ("num_clip", "infer_frames", "seconds"), [(None, 48, None), (3, 48, 5.76), (2, 60, 4.8)], ids=str
)
def test_a_pipe_is_heard_for_the_clips_that_are_asked_for(
    num_clip: int | None, infer_frames: int, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeListener:
        started = False

        def __init__(self, pipe: str, max_seconds: float | None) -> None:
            self.pipe, self.max_seconds = pipe, max_seconds

        def start(self) -> None:
            self.started = True

    monkeypatch.setattr(flow.render_pipe, "Listener", FakeListener)
    made = cast(Any, flow.listen(form(num_clip=num_clip, infer_frames=infer_frames), cast(PcmPipe, "pipe")))
    assert made.started
    assert (made.pipe, made.max_seconds) == ("pipe", pytest.approx(seconds))


REPORT = {"status": "passed", "stages": {"render": {"cached": True}}}
PUBLISHED = PublishedRun(out=Path("out"), report=REPORT, hit=False)


def entry(kind: str, **values: Any) -> Entry:
    return Entry(kind=kind, key=kind, folder=Path(kind), files={CLEANED: "c" * 64}, values=values, hit=kind == "prompt")


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """What each stage was given, in the order that they ran."""
    monkeypatch.setenv("LIVEAVATAR_HOME", str(tmp_path))
    given: dict[str, tuple[Any, ...]] = {}

    def stage(name: str, made: Any) -> Any:
        def run(*args: Any, **named: Any) -> Any:
            given[name] = (*args, named) if named else args
            return made

        return run

    planned = entry(
        "plan", placement="single", per_gpu_gb=[], own_decoder=False, layers=[], rings_on_host=False, settings={}
    )
    fakes = {
        (flow.ingest, "portrait"): entry("portrait", width=384, height=256),
        (flow.prompt, "prompt_check"): entry("prompt"),
        (render.plan, "plan"): planned,
        (flow.render_pipe, "render_pipe"): entry("render"),
        (flow.render_pipe, "transcribe"): entry("enhance"),
        (flow.features, "features"): entry("features"),
        (flow.quality, "judge"): entry("quality"),
    }
    for (module, name), made in fakes.items():
        monkeypatch.setattr(module, name, stage(name, made))
    monkeypatch.setattr(flow, "publish_run", stage("publish_run", PUBLISHED))
    monkeypatch.setattr(flow, "tidied", lambda published: {"published": published})
    monkeypatch.setattr(flow, "digest_of", lambda _: "0" * 64)
    monkeypatch.setattr(render.plan, "request_of", stage("request_of", "request"))
    return given


@pytest.mark.parametrize(("num_clip", "frames"), [(None, flow.PLANNED_FRAMES), (3, 144)])
def test_the_video_comes_first_and_the_words_after_it(
    num_clip: int | None, frames: int, stages: dict[str, tuple[Any, ...]]
) -> None:
    listener = cast(Any, SimpleNamespace())
    result = flow.run_piped_job(form(num_clip=num_clip, placement="tpp"), listener, INPUTS)
    assert result == {"published": PUBLISHED}
    assert read_counters()[0] == {"runs/passed": 1}
    names = ["portrait", "prompt_check", "request_of", "plan", "render_pipe"]
    assert list(stages) == [*names, "transcribe", "features", "judge", "publish_run"]
    settings, options, width, height, planned_frames, named = stages["request_of"]
    assert named == {"piped": True}, "the speech encoder stays loaded"
    assert settings == form().settings()
    assert (width, height, planned_frames) == (384, 256, frames)
    assert options["placement"] == "tpp", "the plan decides as for a file"
    rendering = stages["render_pipe"]
    assert rendering[0] is listener
    assert (rendering[1].ranks, rendering[1].online) == (1, True)
    parameters, results, published = stages["publish_run"]
    assert parameters.enable_online_decode
    assert published["audio_name"] == "standard input"
    assert published["inputs"].audio == InputFile(path=Path("enhance") / CLEANED, sha256="c" * 64)
    assert published["cached_tasks"] == 1
    assert results.sound == results.cleaned == entry("enhance")


def test_objects_come_in_by_the_flow_and_not_by_its_parameters() -> None:
    made = flow.pipe_flow(cast(Any, "listener"), INPUTS)
    assert made.name == "render-pipe"
    assert list(made.parameters.properties) == ["parameters"]
