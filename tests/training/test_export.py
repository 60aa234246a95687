"""Exported weights are the mixes, gains and noise levels that were requested."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from liveavatar.audio.encoders import encoder_kind, low_rank
from liveavatar.checkpoints import checksums
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.load import load_model
from liveavatar.errors import CheckpointError
from liveavatar.training import autoencoder, export, runtime
from liveavatar.training.corpus.head.motion import POSE_LIMITS
from tests.audio.sounds import syllables
from tests.corrections import write_corrections
from tests.training.conftest import ToyRun


def test_model_gets_the_decoder_that_was_trained_for_it(
    corpus: ToyRun, rank: runtime.TrainRank, tmp_path: Path
) -> None:
    model, other = tmp_path / "model", tmp_path / "other"
    export.export_random("tiny", model)
    export.export_random("tiny", other, seed=1)
    before = {part.name: part.read_bytes() for part in model.glob("*.safetensors")}
    alone = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips, only_decoder=model), rank)
    alone.train_step(0.3)
    runtime.save_checkpoint(tmp_path / "autoencoder.pt", alone.state(1.0))
    export.main(["--decoder", str(tmp_path), "--out", str(model)])
    changed = [name for name, old in before.items() if (model / name).read_bytes() != old]
    assert changed == ["vae.safetensors"]
    video = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        made, wanted = load_model(model, "cpu", torch.float32, ("vae",)).vae, alone.average_vae
        alone.average.copy_to(wanted)
        assert made is not None
        torch.testing.assert_close(
            made.decode(made.encode(video)), wanted.decode(wanted.encode(video)), atol=0.02, rtol=0
        )
    with pytest.raises(CheckpointError, match="only_decoder"):
        export.export_decoder(tmp_path, other)


def test_a_mix_takes_its_embeddings_and_its_layers_by_shares_of_their_own() -> None:
    names = ("dit.patch_embedding.weight", "dit.time_projection.1.weight", "dit.blocks.0.ffn.0.weight", "text.table")
    student, teacher = ({name: torch.full((2,), value) for name in names} for value in (0.0, 1.0))
    values = lambda *shares: [float(w[0]) for w in export.mixed(student, teacher, *shares).values()]  # noqa: E731
    assert values(0.25) == [0.25] * 4
    assert values(0.25, 1.0) == [1, 1, 0.25, 0.25]
    assert values(0.25, 0.0) == [0, 0, 0.25, 0.25]


def test_export_keeps_a_share_of_the_weights_before(taught: ToyRun, tmp_path: Path) -> None:
    export.export_random("tiny", tmp_path / "before")
    recipe = export.ExportSettings(
        weights="teacher", before=tmp_path / "before", before_share=0.75, before_embedding_share=1.0
    )
    export.export_run(taught.run, tmp_path / "model", recipe)
    assert (
        "teacher, with 75% of the weights before, 100% of their embeddings"
        in (tmp_path / "model" / "model_card.md").read_text()
    )
    made, before = (load_model(tmp_path / n, "cpu", torch.float32, parts=("dit",)).dit for n in ("model", "before"))
    saved = runtime.load_checkpoint(taught.run / "teacher.pt", torch.device("cpu"))["average"]
    name = "blocks.0.ffn.0.weight"
    expected = 0.25 * saved[f"dit.{name}"] + 0.75 * before.state_dict()[name]
    torch.testing.assert_close(made.state_dict()[name], expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(made.patch_embedding.weight, before.patch_embedding.weight)
    assert read_config(tmp_path / "model").vae == read_config(tmp_path / "before").vae != read_config(taught.run).vae


def test_export_tells_how_far_the_run_learned_to_turn(taught: ToyRun, tmp_path: Path) -> None:
    usual = export.export_run(taught.run, tmp_path / "usual", export.ExportSettings(weights="teacher"))
    wide = export.ExportSettings(weights="teacher", pose_limits=(35.0, 18.0, 18.0))
    export.export_run(taught.run, tmp_path / "wide", wide)
    assert usual.pose_limits == POSE_LIMITS
    assert read_config(tmp_path / "wide").pose_limits == (35.0, 18.0, 18.0)
    assert wide.name("teacher") == "teacher", "no mixing"


def test_export_with_louder_speech_and_other_noise_levels(taught: ToyRun, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has 3 numbers; give one for each of the 1 layers"):
        export.export_run(
            taught.run, tmp_path / "model", export.ExportSettings(weights="teacher", audio_gain=(2, 2, 2))
        )
    recipe = export.ExportSettings(weights="teacher", audio_gain=(1.5,), shift=7.0, gaze=False)
    export.export_run(taught.run, tmp_path / "model", recipe)
    made = load_model(tmp_path / "model", "cpu", torch.float32, parts=("dit",))
    assert made.config.sigmas[4] == pytest.approx((1, 21 / 22, 7 / 8, 7 / 10))
    assert made.config.lids_conditioned
    assert not made.config.gaze_conditioned
    saved = runtime.load_checkpoint(taught.run / "teacher.pt", torch.device("cpu"))["average"]
    gains = {
        n: made.dit.state_dict()[n.removeprefix("dit.")] / w
        for n, w in saved.items()
        if n.startswith("dit.") and w.all()
    }
    louder = {n for n, gain in gains.items() if gain.median() > 1.25}
    assert louder == {n for n in gains if "injector." in n and ".o." in n}
    assert all(gains[n].median() == pytest.approx(1.5, abs=1e-2) for n in louder)
    named = "teacher, with speech 1.5 times as loud, noise levels shifted by 7, no gaze condition"
    assert recipe.name("teacher") == named


def test_a_fine_tuned_student_comes_with_the_encoder_that_it_reads(taught: ToyRun, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(taught.run, run)
    average = runtime.load_checkpoint(run / "teacher.pt", torch.device("cpu"))["average"]
    runtime.save_checkpoint(run / "student.pt", {"finetune": {name: w + 1 for name, w in average.items()}})
    file, audio = write_corrections(tmp_path / "tuned"), syllables(1.0)
    options = ["--run", str(run), "--out", str(model), "--weights", "finetune", "--shift", "7"]
    export.main(options)
    plain = read_config(model)
    assert plain.speech == read_config(run).speech
    export.main([*options, "--speech_tuning", str(file)])
    made = read_config(model)
    assert made == replace(plain, speech=replace(plain.speech, tuning=low_rank.FILE, shifts=(0,)))
    assert {low_rank.FILE, "dit.safetensors"} <= {path.name for path in checksums.verify(model)}
    assert low_rank.FILE in (model / "model_card.md").read_text()
    heard = encoder_kind(made.speech).load(made.speech, model).features(audio)
    unlike = encoder_kind(plain.speech).load(plain.speech, model).features(audio)
    assert (heard.float() - unlike.float()).abs().max() > 0.1
    head = load_model(model, "cpu", torch.float32, parts=("dit",)).dit.head.head.weight
    torch.testing.assert_close(head, average["dit.head.head.weight"] + 1, atol=2e-3, rtol=2e-3)
    export.main([*options, "--speech_tuning", str(model / low_rank.FILE)])
    assert (model / low_rank.FILE).read_bytes() == file.read_bytes(), "once more, from the model itself"
    export.main(options)
    assert not (model / low_rank.FILE).exists(), "what was there belongs to other weights"
    assert low_rank.FILE not in {path.name for path in checksums.verify(model)}


@pytest.mark.parametrize("content", [None, "no weights"])
def test_export_refuses_corrections_that_cannot_be_read(taught: ToyRun, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tuned"
    if content is not None:
        file.write_text(content)
    with pytest.raises(CheckpointError, match=f"{file} is no readable safetensors file"):
        export.export_run(taught.run, tmp_path / "model", export.ExportSettings(weights="teacher", speech_tuning=file))
    assert not (tmp_path / "model").exists()


def test_a_run_hears_as_it_was_tuned_or_as_the_model_before(tmp_path: Path) -> None:
    run, before = tmp_path / "run", tmp_path / "before"
    run.mkdir()
    export.export_random("tiny", before)
    assert export.tuning_of(run, None) is export.tuning_of(run, before) is None
    config = read_config(before)
    (before / "config.json").write_text(replace(config, speech=replace(config.speech, tuning="other")).to_json())
    (before / "other").touch()
    assert export.tuning_of(run, before) == before / "other"
    (run / low_rank.FILE).touch()
    assert export.tuning_of(run, before) == export.tuning_of(run, None) == run / low_rank.FILE


def test_export_on_the_way_from_the_student_to_its_teacher(taught: ToyRun, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", export.ExportSettings(weights="dmd", teacher_share=0.25)
    shutil.copytree(taught.run, run)
    (run / "student.pt").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="not 'dmd'"):
        export.export_run(run, tmp_path / "model", recipe)
    before = runtime.load_checkpoint(run / "teacher.pt", torch.device("cpu"))["average"]
    runtime.save_checkpoint(run / "student.pt", {"dmd": {name: w + 1 for name, w in before.items()}})
    (run / "evaluation.json").write_text(json.dumps({"chosen": "dmd", "rows": {}}))
    export.export_run(run, tmp_path / "model", recipe)
    made = load_model(tmp_path / "model", "cpu", torch.float32, parts=("dit",)).dit.head.head.weight
    torch.testing.assert_close(made, before["dit.head.head.weight"] + 0.75, atol=2e-3, rtol=2e-3)
    assert "those called `dmd, with 25% of teacher`" in (tmp_path / "model" / "model_card.md").read_text()
    (run / "teacher.pt").unlink()
    with pytest.raises(CheckpointError, match="not 'teacher'"):
        export.export_run(run, tmp_path / "model", recipe)
