"""Options name a model, a window and a machine; those that do not go together are refused in one line."""

from pathlib import Path

import pytest

from liveavatar.config import LIVE_AVATAR_14B
from liveavatar.errors import InputError
from liveavatar.training.sharded import options
from liveavatar.training.sharded.windows import WindowSize


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "give --model DIR"),
        ("--random --model mini", "give --model DIR"),
        ("--model mini --layers 3 --data d", "use them with --random"),
        ("--model mini", "give --data DIR"),
        ("--model nowhere --data d", "there is no model directory"),
        ("--random --layers 41", "the model has 40"),
        ("--random --size 700x400", "multiples of 64"),
        ("--random --size wide", "multiples of 64"),
    ],
)
def test_options_that_do_not_go_together(words: str, reason: str) -> None:
    args = options.parser().parse_args(words.split())
    with pytest.raises(InputError, match=reason):
        options.window_size(args, options.model_config(args))


@pytest.mark.parametrize("words", ["--layers 0", "--batch -1", "--save_every 0", "--updates 1e3", "--until 0"])
def test_numbers_are_one_or_more(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parser().parse_args(words.split())
    assert "1 or more" in capsys.readouterr().err


def test_a_depth_keeps_the_injectors_of_its_layers() -> None:
    args = options.parser().parse_args(["--random", "--layers", "9"])
    dit = options.model_config(args).dit
    assert (dit.num_layers, dit.audio_inject_layers, dit.dim) == (9, (0, 4, 8), LIVE_AVATAR_14B.dit.dim)


@pytest.mark.parametrize("size", ["704*384", "704x384"])
def test_a_window_in_latent_cells(size: str) -> None:
    args = options.parser().parse_args(["--random", "--size", size, "--blocks", "5"])
    assert options.window_size(args, LIVE_AVATAR_14B) == WindowSize(5, 48, 88)


def test_an_estimate_says_what_fits() -> None:
    said, fitting = options.estimate(options.parser().parse_args(["--estimate", "8x80GB"]))
    assert "a rank of 8 fits 80 GB" in said
    assert "frozen base" in said
    assert fitting
    for gpus in ("1x24GB", "3x80GB,1x24GB"):
        said, fitting = options.estimate(options.parser().parse_args(["--estimate", gpus]))
        assert "does not fit 24 GB" in said, "the smallest decides"
        assert not fitting
    with pytest.raises(InputError, match="name GPUs"):
        options.estimate(options.parser().parse_args(["--estimate", "cpu"]))


def test_the_run_has_the_options(tmp_path: Path) -> None:
    args = options.parser().parse_args(["--random", "--anchor", "0.1", "--guidance", "1", "--lora_rank", "8"])
    run = options.sharded_run(args, LIVE_AVATAR_14B, WindowSize(1, 8, 8), 4)
    assert (run.world, run.guidance, run.anchor, run.adapters.rank, run.causal_scores) == (4, False, True, 8, False)


@pytest.mark.parametrize(
    "words", ["--hours -1", "--hours nan", "--adamw 0", "--guidance much", "--anchor -0.1", "--updates 0"]
)
def test_numbers_that_make_no_sense_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    option, value = words.split()
    with pytest.raises(SystemExit):
        options.parser().parse_args([option, value])
    said = capsys.readouterr().err
    assert option in said
    assert repr(value) in said


def test_gpus_of_an_estimate_are_named_by_their_option() -> None:
    with pytest.raises(InputError, match=r"^--estimate 8x800000GB: "):
        options.estimate(options.parser().parse_args(["--estimate", "8x800000GB"]))
