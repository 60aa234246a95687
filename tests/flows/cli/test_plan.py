"""`plan`: the planner's answer for any machine, and for a job whose files are here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows import preflight
from flows.parameters import read_parameters
from liveavatar.config import LIVE_AVATAR_14B, MINI, ModelConfig
from liveavatar.errors import InputError
from liveavatar.media.portrait import target_size
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


def test_the_picture_turns_the_video(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(["--gpus", "cpu", "--image", "face.png"], capsys)["settings"]["size"] == "256*384"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["--gpus", "2x141GB", "--num_gpus", "3"], 3, "there are 2 GPUs; ask for fewer", id="too many"),
        pytest.param(["--gpus", "2x141GB", "--num_gpus", "x"], 2, "give a number of GPUs", id="no number"),
        pytest.param(
            ["--size", "512*512", "--framing", "model"], 2, "trained for 384\\*256 and 256\\*384 only", id="not mini's"
        ),
        pytest.param(["--size", "4096*512"], 2, "sides from 128 to 2048 pixels", id="a size no film has"),
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
