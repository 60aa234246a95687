"""`plan`: the planner's answer for any machine, and for a job whose files are here."""

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows import preflight
from flows.parameters import read_parameters
from flows.presets import NAMES
from liveavatar.checkpoints.directory import read_config
from liveavatar.config import LIVE_AVATAR_14B, MINI, TINY, ModelConfig
from liveavatar.errors import InputError, LiveAvatarError
from liveavatar.hardware import Gpu, parse_gpus
from liveavatar.media.portrait import target_size
from liveavatar.planning.plan import describe, video_size
from liveavatar.planning.speed import Speeds
from liveavatar.timing import FPS
from tests.flows.cli.commands import run

PORTRAIT = (256, 384)  # of face.png


def ask(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    code, out, err = run(["plan", *arguments, "--json"], capsys)
    assert code in (0, 3), err
    return json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "code", "fits"),
    [
        pytest.param(["--model", "live-avatar-14b", "--gpus", "1x24GB"], 3, False, id="14B on one small card"),
        pytest.param(["--model", "live-avatar-14b", "--gpus", "cpu"], 3, False, id="14B without a card"),
        pytest.param(["--model", "mini", "--gpus", "1x24GB"], 0, True, id="mini on a card"),
    ],
)
def test_plan_answers(
    arguments: list[str], code: int, fits: bool, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, _ = run(["plan", *arguments, "--json"], capsys)
    plan = json.loads(out)
    assert (got, plan["fits"]) == (code, fits)
    assert {"placement", "per_gpu_gb", "fps", "ttff_s", "reasons", "nearest"} <= set(plan)


@pytest.mark.parametrize(
    ("arguments", "frames"),
    [
        pytest.param([], 10 * FPS, id="ten seconds"),
        pytest.param(["--seconds", "4"], 4 * FPS, id="a length"),
        pytest.param(["--num_clip", "3"], 3 * 48, id="clips"),
        pytest.param(["--seconds", "4", "--num_clip", "3"], 4 * FPS, id="no more clips than sound"),
        pytest.param(["--seconds", "40", "--num_clip", "3"], 3 * 48, id="no more sound than clips"),
        pytest.param(["--audio", "voice.wav"], FPS, id="the length of a sound"),
    ],
)
def test_the_job_is_as_long_as_asked(
    arguments: list[str], frames: int, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["plan", "--gpus", "1x141GB", *arguments], capsys)
    assert code == 0
    assert f"for {frames} frames ({frames / FPS:.1f} s of video)" in out


@pytest.fixture
def models(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of a large and a small model, without weights, and a CPU whose speed is known."""
    for name, model in (("large", LIVE_AVATAR_14B), ("small", TINY)):
        (home / name).mkdir()
        (home / name / "config.json").write_text(replace(model, name=name).to_json())
    speeds = Speeds(step=0.1, decode=0.05, start=0.2, first=None, overlap=True)
    monkeypatch.setattr("liveavatar.planning.memory.cpu_speeds", lambda *_: speeds)
    return home


def test_the_picture_turns_the_video(files: dict[str, str], models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(["--gpus", "cpu", "--image", "face.png"], capsys)["settings"]["size"] == "256*384"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["--gpus", "2x141GB", "--num_gpus", "3"], 3, "has 2 GPUs; use --num_gpus 2", id="too many"),
        pytest.param(["--gpus", "2x141GB", "--num_gpus", "x"], 2, "should be a valid integer", id="no number"),
        pytest.param(
            ["--size", "512*512", "--framing", "model"], 2, "trained for 384\\*256 and 256\\*384 only", id="not mini's"
        ),
        pytest.param(["--size", "4096*512"], 2, "sides from 128 to 2048 pixels", id="a size no film has"),
        pytest.param(["--gpus", "cpu", "--fp8"], 2, "--fp8: 8-bit linear layers need a GPU", id="fp8 on a CPU"),
        pytest.param(["--seconds", "0"], 2, "give the length of the sound", id="no length"),
    ],
)  # fmt: skip
def test_a_question_without_an_answer_is_refused(
    arguments: list[str], code: int, says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = run(["plan", *arguments], capsys)
    assert (got, out) == (code, "")
    assert says.replace("\\", "") in err


@pytest.mark.parametrize("size", [None, "640*384", "384*256", "688*368", "512*192", "64*64"])
@pytest.mark.parametrize("model", [replace(LIVE_AVATAR_14B, name="my-14b"), replace(MINI, name="my-mini")])
def test_plan_and_render_agree_on_the_size(
    model: ModelConfig, size: str | None, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("my-model")
    folder.mkdir()
    (folder / "config.json").write_text(model.to_json())
    job = read_parameters({**files, "model": "my-model", "size": size})
    asked = ["plan", "--json", "--gpus", "1x141GB", "--model", "my-model", "--image", files["image"]]
    code, out, err = run([*asked, *([] if size is None else ["--size", size])], capsys)
    if code == InputError.exit_code:
        with pytest.raises(InputError) as refusal:
            preflight.check_options(job)
        assert err == f"liveavatar: {refusal.value}\n"
    else:
        preflight.check_options(job)
        width, height = target_size(*PORTRAIT, preflight.refuse_size(job, model), model)
        assert json.loads(out)["settings"]["size"] == f"{width}*{height}"


@pytest.mark.parametrize(
    ("size", "code"),
    [
        pytest.param("640*384", 0, id="no preset, but an area between"),
        pytest.param("64*64", 2, id="too small"),
    ],
)
def test_the_14b_makes_any_size_under_another_name(
    size: str, code: int, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "config.json").write_text(replace(LIVE_AVATAR_14B, name="my-14b").to_json())
    got, _, err = run(["plan", "--model", ".", "--gpus", "1x141GB", "--size", size], capsys)
    assert got == code, err


def test_fewer_gpus_are_those_that_are_counted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "live-avatar-14b", "--gpus", "4x141GB", "--placement", "tpp"]
    assert len(ask(asked, capsys)["per_gpu_gb"]) == 4
    assert len(ask([*asked, "--num_gpus", "2"], capsys)["per_gpu_gb"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["--size", "720*400"], ["--size 720*400 becomes 704*384: sides are multiples of 64"], id="moved"),
        pytest.param(["--size", "704*384"], [], id="a size that is"),
        pytest.param(["--size", "384*704"], [], id="turned by the portrait"),
        pytest.param(["--preset", "fast"], ['--preset fast is --size "384*256" --sample_steps 3'], id="a preset"),
        pytest.param(["--preset", "fast", "--size", "704*384"], ["--preset fast is --sample_steps 3"], id="its rest"),
        pytest.param([], [], id="nothing asked"),
    ],
)
def test_a_plan_notes_sizes_that_move_and_what_a_preset_fills(
    arguments: list[str], says: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--model", "live-avatar-14b", "--gpus", "1xH200", "--fp8", *arguments]
    notes = ask(asked, capsys).get("notes", [])
    assert len(notes) == len(says)
    assert all(note.startswith(start) for note, start in zip(notes, says, strict=True))
    printed = run(["plan", *asked], capsys)[1]
    assert all(f"  - {note}\n" in printed for note in notes)


def test_memory_that_is_left_is_not_planned_with(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "live-avatar-14b", "--gpus", "1x48GB", "--fp8", "--size", "704*384"]
    assert ask(asked, capsys)["fits"]
    refused = ask([*asked, "--leave_memory", "6GB"], capsys)
    assert not refused["fits"]
    assert "40.15 of its 48 GB are usable (6 GB are left to other programs)" in refused["refusal"]
    assert refused["nearest"]["size"] != "704*384"
    nothing = ask([*asked, "--leave_memory", "48GB"], capsys)
    assert "0.00 of its 48 GB are usable (48 GB are left to other programs)" in nothing["refusal"]


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        pytest.param(["--gpus", "1xH200", "--fp8"], 0, ["704*384    704*384        4  yes", "720*400    3 steps: live"],
                     id="the large model"),
        pytest.param(["--gpus", "1x32GB"], 0,
                     ["384*256    384*256        3  with --fp8  ", "640*384        3  with --fp8, offload"],
                     id="8 bits where bf16 does not fit"),
        pytest.param(["--gpus", "4x24GB"], 0, ["704*384    704*384        4  yes"], id="layers on four cards"),
        pytest.param(["--gpus", "1x24GB"], 0, ["384*256    384*256        3  with --fp8, offload"], id="a small card"),
        pytest.param(["--gpus", "1x6GB"], 3, ["384*256    384*256        3  no"], id="nothing fits"),
        pytest.param(["--gpus", "1xH100", "--model", "mini"], 0, ["mini on H100", "384*256    4 steps:"], id="mini"),
    ],
)  # fmt: skip
def test_a_table_names_the_steps_to_take(
    arguments: list[str], code: int, lines: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = run(["plan", "--table", *arguments], capsys)
    assert got == code, err
    assert all(line in out for line in lines), out
    data = json.loads(run(["plan", "--table", "--json", *arguments], capsys)[1])
    assert len(data["rows"]) == 4 * len(data["recommended"])
    assert any(row["fits"] for row in data["rows"]) == (code == 0)


PROMPT = "A woman in her thirties in a navy blazer explains calmly, soft window light from the left, photorealistic"
KINDS = ("8GB", "16GB", "24GB", "32GB", "48GB", "80GB", "141GB", "H100", "A100", "L40S", "3090")
machines = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(KINDS)), max_size=3).filter(
    lambda kinds: sum(count for count, _ in kinds) <= 8
)
jobs = st.fixed_dictionaries(
    {},
    optional={
        "size": st.sampled_from(["384*256", "512*256", "688*368", "704*384", "720*400", "1280*720"]),
        "sample_steps": st.integers(1, 8),
        "fp8": st.just(True),
        "offload_model": st.booleans(),
        "placement": st.sampled_from(["auto", "single", "tpp", "replicas"]),
        "num_gpus": st.integers(1, 8),
        "kv_cache_dtype": st.sampled_from(["auto", "bf16", "fp8", "int8", "e4m3"]),
        "num_clip": st.integers(1, 300),
        "infer_frames": st.sampled_from([12, 48, 60]),
        "enable_online_decode": st.just(True),
        "leave_memory": st.sampled_from(["2GB", "6GB", "20"]),
        "preset": st.sampled_from(NAMES),
    },
)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(["--placement", "replicas"], "one sound makes one video", id="replicas"),
        pytest.param(["--denoise", "rnnoise"], "noise removal hears a recording as a whole", id="noise removal"),
        pytest.param(["--resume"], "what a pipe said is gone", id="resume"),
        pytest.param(["--pose_video", "head.csv"], "has no length to fit it to", id="a pose"),
    ],
)
def test_a_pipe_is_refused_what_a_render_refuses_it(
    options: list[str], says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", "--model", "live-avatar-14b", "--gpus", "2xH200", *options]
    code, _, err = run([*asked, "--audio", "-"], capsys)
    assert code == 2
    assert says in err
    assert run(asked, capsys)[0] == 0


def rendered_plan(job: dict[str, Any], gpus: tuple[Gpu, ...]) -> dict[str, Any] | str:
    """The plan that a render makes on a machine with these GPUs, or the words that it is refused with."""
    from flows import render

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render.machine, "accelerators", lambda: tuple(gpu.name for gpu in gpus))
        patch.setattr("liveavatar.hardware.detect_gpus", lambda: gpus)
        patch.setattr("liveavatar.hardware.available_gb", lambda: math.inf)
        patch.setattr("liveavatar.hardware.free_disk_gb", lambda _: math.inf)
        patch.setattr(render.plan, "plan", render.plan.plan.fn)
        try:
            parameters = read_parameters({"audio": "a.wav", "image": "i.png", "prompt": PROMPT, **job})
            preflight.check_options(parameters)
            model = read_config(Path(parameters.model))
            size = video_size(model, preflight.refuse_size(parameters, model), None)
            frames = parameters.num_clip * parameters.infer_frames if parameters.num_clip else 10 * FPS
            return dict(render.plan_render(parameters, model, size, frames).entry.values)
        except LiveAvatarError as refusal:
            return str(refusal)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kinds=machines, job=jobs, model=st.sampled_from(["large", "large", "large", "small"]))
def test_plan_is_render(
    models: Path, capsys: pytest.CaptureFixture[str], kinds: list[tuple[int, str]], job: dict[str, Any], model: str
) -> None:
    gpus = ",".join(f"{count}x{kind}" for count, kind in kinds) or "cpu"
    arguments = ["plan", "--json", "--gpus", gpus, "--model", model]
    for name, value in job.items():
        arguments += [f"--{name}"] if name in ("fp8", "enable_online_decode") else [f"--{name}", str(value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("liveavatar.hardware.available_gb", lambda: math.inf)
        patch.setattr("liveavatar.hardware.free_disk_gb", lambda _: math.inf)
        code, out, err = run(arguments, capsys)
    made = rendered_plan({**job, "model": model}, parse_gpus(gpus))
    if out:
        plan = json.loads(out)
        assert plan["fits"] == (code == 0)
        plan.pop("notes", None)  # on the size that was asked for
        assert (plan if plan["fits"] else plan["refusal"]) == made
        if plan["nearest"] and "model" not in plan["nearest"]:
            place = [f"--{name}={job[name]}" for name in ("num_gpus", "leave_memory") if name in job]
            way_out = ["plan", "--gpus", gpus, "--model", model, *place, *shlex.split(describe(plan["nearest"]))]
            assert run(way_out, capsys)[0] == 0, way_out
    else:
        assert err == f"liveavatar: {made}\n"
