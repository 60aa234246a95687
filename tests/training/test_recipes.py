"""Every recorded run still makes command lines that the stages accept, and the shipped weights are the last one's."""

import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from liveavatar.audio.encoders import low_rank
from liveavatar.checkpoints.directory import read_config
from liveavatar.config import MINI, shifted_sigmas
from liveavatar.paths import MINI_DIR
from liveavatar.training import autoencoder, run
from liveavatar.training.card import CARD, PROSE
from liveavatar.training.corpus.head.motion import TURN_LIMITS
from liveavatar.training.corpus.speech import synthesis
from liveavatar.training.recipes import (
    ANCHORED,
    CHAIN,
    COPYING,
    DECODER_FINISH,
    DRAWN,
    RECIPES,
    SHIPPED,
    TUNED,
    TURNING,
    Recipe,
)


def started(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> dict[str, dict[str, object]]:
    """Options of every command that a run of the recipe starts, as its own parser reads them, by log name."""
    seen: dict[str, dict[str, object]] = {}

    def launch(training: run.TrainingRun, name: str, command: list[str], env: dict[str, str] | None = None) -> None:
        module = next(word for word in command if word.startswith("liveavatar.training."))
        words = command[command.index(module) + 1 :]
        seen[name] = vars(importlib.import_module(module).parser().parse_args(words))

    monkeypatch.setattr(run.TrainingRun, "launch", launch)
    monkeypatch.setattr(run.TrainingRun, "wait", lambda *_: True)
    monkeypatch.setattr(run.TrainingRun, "pack", lambda *_: True)
    monkeypatch.setattr(shutil, "copytree", lambda *_, **__: None)
    (folder / "clips").mkdir()
    (folder / "clips" / "portrait_0.labels.npz").touch()
    options = ["--assets", "a", "--speech", "s", "--work", str(folder), "--out", str(folder / "out")]
    before = ["--before", "BEFORE"] if recipe.init else []
    assert run.main([*options, "--recipe", recipe.name, *before, *more]) == 0
    return seen


WHOLE = {name: recipe for name, recipe in RECIPES.items() if not recipe.stages}


@pytest.mark.parametrize("recipe", WHOLE.values(), ids=WHOLE)
def test_stages_accept_every_recipe(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = started(recipe, tmp_path, monkeypatch)
    assert {"render_eval_0", "render_train_0", "autoencoder", "encode", "teacher", "evaluate", "export"} <= seen.keys()
    assert ("refine" in seen) == (recipe.refine is not None)
    assert ("distill" in seen) == (recipe.distill > 0)
    assert seen["teacher"]["seconds"] == recipe.teacher
    for options in recipe.speech:
        synthesis.parser().parse_args([*options.split(), "--out", "SPEECH"])


def test_the_copying_decoder_is_trained_on_a_finished_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = started(COPYING, tmp_path, monkeypatch, "--gpus", "2")
    assert {name for name in seen if not name.startswith("render_")} == {"copying", "adopt"}
    copying = seen["copying"]
    assert (copying["init"], copying["seconds"], copying["blocks"]) == (Path("BEFORE"), COPYING.copying, [2, 2, 2])
    assert seen["adopt"]["decoder"] == copying["out"]
    assert seen["render_train_3"]["frames"] == 36


def test_a_decoder_learns_from_drawn_latents_where_there_is_speech(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features_train_0.pt").touch()  # as the stage `speech` leaves it
    seen = started(DRAWN, tmp_path, monkeypatch)
    assert seen["speech"]["only_speech"]
    copying = seen["copying"]
    assert (copying["features"], copying["adversary"], copying["energy"]) == (tmp_path, 1, 0)
    assert copying["drawn_share"] + copying["still_share"] < 1
    assert seen["adopt"]["output_sharpen"] == read_config(MINI_DIR).vae.output_sharpen


def test_a_new_transformer_is_trained_on_a_finished_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = started(TURNING, tmp_path, monkeypatch)
    train = [name for name in seen if name.startswith("render_train_")]
    assert {name for name in seen if not name.startswith("render_")} == {"encode", "teacher", "distill", "export"}
    assert len(train) == TURNING.gpus * TURNING.renderers
    assert all((seen[name]["turned"], seen[name]["processes"]) == (TURNING.turned, 4) for name in train)
    assert seen["render_eval_0"]["turned"] == 0, "held-out clips are as before"
    assert seen["encode"]["model"] == seen["teacher"]["init"] == Path("BEFORE")
    assert seen["distill"]["shift"] == seen["export"]["shift"] == 7
    assert tuple(seen["export"]["pose_limits"]) == TURN_LIMITS
    assert seen["export"]["gaze"]


def test_a_finished_transformer_is_fine_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = started(ANCHORED, tmp_path, monkeypatch)
    assert {name for name in seen if not name.startswith("render_")} == {"encode", "finetune", "export"}
    assert seen["encode"]["model"] == seen["finetune"]["init"] == Path("BEFORE")
    assert (seen["finetune"]["seconds"], seen["finetune"]["shift"]) == (ANCHORED.finetune, 7)
    assert (seen["export"]["weights"], seen["export"]["shift"], seen["export"]["gaze"]) == ("finetune", 7, True)


def test_the_speech_encoder_is_tuned_before_the_clips_are_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / low_rank.FILE
    file.touch()  # as the stage `tune` leaves it
    seen = started(TUNED, tmp_path, monkeypatch, "--speech_encoder", "ENCODER")
    stages = [name for name in seen if not name.startswith("render_")]
    assert stages == ["before_speech", "tune", "encode", "finetune", "export"]
    before, tune, encode, finetune, exported = (seen[name] for name in stages)
    assert (tune["seconds"], tune["out"], tune["assets"], tune["speech"]) == (
        TUNED.tune,
        tmp_path,
        Path("a"),
        Path("s"),
    )
    assert tune["speech_encoder"] == before["speech_encoder"] == encode["speech_encoder"] == "ENCODER"
    assert (before["only_speech"], before["out"], before["speech_tuning"]) == (True, tmp_path / run.BEFORE_SPEECH, None)
    assert (encode["only_speech"], encode["speech_tuning"]) == (False, file)
    assert (finetune["before_features"], finetune["init"]) == (tmp_path / run.BEFORE_SPEECH, Path("BEFORE"))
    assert (exported["weights"], exported["speech_tuning"]) == ("finetune", file)


def test_without_a_tuned_encoder_there_is_one_kind_of_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = started(ANCHORED, tmp_path, monkeypatch)
    assert seen["encode"]["speech_tuning"] is None
    assert seen["finetune"]["before_features"] is None
    assert seen["export"]["speech_tuning"] is None


@pytest.mark.parametrize("recipe", [ANCHORED, TUNED], ids=lambda recipe: recipe.name)
def test_a_run_from_a_tuned_model_hears_as_that_one(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, work = tmp_path / "before", tmp_path / "work"
    before.mkdir()
    work.mkdir()
    (before / "config.json").write_text(replace(MINI, speech=replace(MINI.speech, tuning="theirs")).to_json())
    (before / "theirs").touch()
    seen = started(recipe, work, monkeypatch, "--before", str(before))
    heard = {name: options["speech_tuning"] for name, options in seen.items() if "speech_tuning" in options}
    alone = {"before_speech"} if recipe is TUNED else set()
    assert heard == dict.fromkeys({"encode", "export"} | alone, before / "theirs"), "until it is tuned itself"


def test_the_ninth_run_is_the_recorded_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = started(SHIPPED, tmp_path, monkeypatch)
    before = Path("BEFORE")
    train, teacher, distill, export = (seen[name] for name in ("render_train_1", "teacher", "distill", "export"))
    assert (train["first"], train["frames"], train["eager"], train["world"]) == (20000, 72, False, 2)
    assert seen["render_eval_0"]["eager"]
    assert seen["encode"]["statistics"] == before
    assert (teacher["init"], teacher["muon"], teacher["adamw"], teacher["face_loss"]) == (before, 0.006, 4e-4, 0.2)
    assert (distill["guidance"], distill["face_loss"]) == (1.5, 0.02)
    assert (distill["seconds_regression"], distill["seconds_dmd"]) == (140, 210)
    assert seen["evaluate"]["steps"] == [1, 2, 4, 6]
    assert (export["weights"], export["before"], export["before_share"]) == ("dmd", before, 0.8)
    assert (export["before_embedding_share"], export["shift"], export["gaze"]) == (0.79, 7, False)


def test_typed_options_override_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = started(SHIPPED, tmp_path, monkeypatch, "--budget", "teacher=60", "--extra", "teacher=--face_loss 0.5")
    assert (seen["teacher"]["seconds"], seen["teacher"]["face_loss"], seen["teacher"]["muon"]) == (60, 0.5, 0.006)
    assert run.RECIPES["ninth"].budget["distill"] == 350


def test_a_recipe_that_starts_from_a_model_asks_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--assets", "a", "--speech", "s", "--work", "w", "--out", "o", "--recipe", "ninth"])
    assert "starts from the model of 'eighth'" in capsys.readouterr().err


def test_the_chain_hangs_together() -> None:
    names = [recipe.name for recipe in RECIPES.values()]
    assert len(set(names)) == len(names) == len(CHAIN) + 6
    assert CHAIN[-1] is SHIPPED
    assert all(recipe.init in RECIPES for recipe in RECIPES.values() if recipe.init)
    autoencoder.parser().parse_args(["--data", "CLIPS", "--out", "RUN", "--only_decoder", "MODEL", *DECODER_FINISH])


def test_the_shipped_weights_are_those_of_their_recipe() -> None:
    config, card = read_config(MINI_DIR), (MINI_DIR / CARD).read_text()
    assert config.gaze_conditioned == SHIPPED.export.gaze
    assert SHIPPED.export.shift is not None
    for steps, sigmas in config.sigmas.items():
        assert sigmas == pytest.approx(shifted_sigmas(steps, SHIPPED.export.shift))
    assert card.startswith(PROSE.read_text().rstrip())
    assert f"`{replace(SHIPPED.export, before=Path()).name(SHIPPED.export.weights)}`" in card
    assert f"`{SHIPPED.name}` of `liveavatar/training/recipes.py`" in card
