"""Every training stage learns something on the toy corpus, resumes exactly, and hands on what the next one needs."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from liveavatar.checkpoints.load import load_model, save_model
from liveavatar.config import FROM_CAMERA, FROM_PORTRAIT, load_config
from liveavatar.errors import CheckpointError
from liveavatar.pose.blinks import blink
from liveavatar.pose.track import LOOK_SCALE, POSE_SCALE
from liveavatar.training import autoencoder, distill, evaluate, export, features, latent_set, latents, runtime, teacher
from liveavatar.training.corpus.head.motion import FOLLOW
from liveavatar.training.latents import Window
from tests.training import toy
from tests.training.conftest import ToyRun


def train_autoencoder(corpus: ToyRun, rank: runtime.TrainRank, steps: int) -> autoencoder.AutoencoderTrainer:
    torch.manual_seed(0)
    trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips), rank)
    for i in range(steps):
        trainer.train_step(i / steps)
    return trainer


@pytest.fixture(scope="module")
def encoded(corpus: ToyRun, rank: runtime.TrainRank) -> ToyRun:
    """A run with an autoencoder, latents, features and a probe."""
    trainer = train_autoencoder(corpus, rank, 20)
    runtime.save_checkpoint(corpus.run / "autoencoder.pt", trainer.state(1.0))
    latents.encode_stage(
        corpus.args(
            data=corpus.clips, speech=corpus.speech, autoencoder=corpus.run, speech_encoder=str(corpus.encoder),
            probe_seconds=1.0, reader_seconds=4.0, only_speech=False, statistics=None,
        ),
        rank,
    )  # fmt: skip
    return corpus


@pytest.fixture(scope="module")
def taught(encoded: ToyRun, rank: runtime.TrainRank) -> ToyRun:
    """The same with a teacher."""
    trainer = teacher.TeacherTrainer(encoded.args(), rank, load_config(encoded.run))
    for i in range(20):
        trainer.train_step(i / 20)
    trainer.held_out()
    runtime.save_checkpoint(encoded.run / "teacher.pt", trainer.state(1.0))
    return encoded


def test_autoencoder_learns(corpus: ToyRun, rank: runtime.TrainRank) -> None:
    torch.manual_seed(0)
    trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips), rank)
    batch = trainer.sampler.sample(2)
    trainer.sampler.sample = lambda _: batch  # type: ignore[method-assign]
    losses = [float(trainer.train_step(0.3)["loss"]) for _ in range(40)]
    assert min(losses[-5:]) < 0.85 * losses[0], losses


def test_sharpened_target_is_the_truth_and_more_of_its_detail() -> None:
    flat = torch.full((1, 3, 2, 8, 8), 0.3)
    torch.testing.assert_close(autoencoder.sharpened(flat, 0.5), flat)
    checks = torch.ones(2, 3, 4, 8, 8)
    checks[..., ::2] = -1  # the finest structure there is: a blur takes it away whole
    made = autoencoder.sharpened(checks, 0.5)
    torch.testing.assert_close(made[..., 2:-2], 1.5 * checks[..., 2:-2])
    video = torch.rand(2, 3, 4, 8, 8)
    alone = torch.stack([autoencoder.sharpened(v[None], 0.3)[0] for v in video])
    torch.testing.assert_close(autoencoder.sharpened(video, 0.3), alone)


def test_adversary_balances_and_the_guard_ends_it(corpus: ToyRun, rank: runtime.TrainRank) -> None:
    trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips, adversary=1), rank)
    before = [p.clone() for p in trainer.adversary.parameters()]
    assert "adversary" not in trainer.train_step(0.1)
    assert "adversary" in trainer.train_step(0.9)
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.adversary.parameters(), strict=True))
    trainer.guard(30.0)
    trainer.guard(29.5)
    assert trainer.adversary_on
    trainer.guard(29.0)
    assert not trainer.adversary_on
    assert "adversary" not in trainer.train_step(0.9)


def test_compiled_autoencoder_takes_the_same_steps(
    corpus: ToyRun, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "BACKEND", "aot_eager")
    batch, weights = None, []
    for compiled in (False, True):
        torch.manual_seed(0)
        trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips), rank)
        batch = batch or trainer.sampler.sample(2)
        trainer.sampler.sample = lambda _, batch=batch: batch  # type: ignore[method-assign]
        if compiled:
            counters.clear()
            trainer.compile()
            assert trainer.judge is not autoencoder.reconstruction_loss
            assert not counters["graph_break"]
        for seed in range(3):
            torch.manual_seed(seed)
            trainer.sampler.host.manual_seed(seed)
            trainer.train_step(0.3)
        weights.append([p.detach() for p in trainer.vae.parameters()])
    assert counters["stats"]["unique_graphs"] == 3, "encoder, decoder and loss are compiled once each"
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_autoencoder_that_does_not_compile_trains_on(
    corpus: ToyRun, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips), rank)
    trainer.compile()
    assert "no compiler" in caplog.text
    assert float(trainer.train_step(0.3)["loss"]) > 0


def test_decoder_goes_on_alone(corpus: ToyRun, rank: runtime.TrainRank, tmp_path: Path) -> None:
    first = train_autoencoder(corpus, rank, 3)
    runtime.save_checkpoint(tmp_path / "autoencoder.pt", first.state(1.0))
    assert runtime.autoencoder_file(tmp_path) == tmp_path / "autoencoder.pt"
    alone = autoencoder.AutoencoderTrainer(
        corpus.args(data=corpus.clips, only_decoder=tmp_path / "autoencoder.pt"), rank
    )
    for step in range(3):
        alone.train_step(step / 3)
    for name, weight in alone.average.weights.items():
        same = torch.equal(weight, first.average.weights[name])
        assert same == name.startswith("encoder."), name
    runtime.save_checkpoint(tmp_path / runtime.REFINED / "autoencoder.pt", alone.state(1.0))
    assert runtime.autoencoder_file(tmp_path) == tmp_path / runtime.REFINED / "autoencoder.pt"


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
        made, wanted = load_model(model, "cpu", torch.float32, ("vae",)).vae, alone.held_vae
        alone.average.copy_to(wanted)
        assert made is not None
        torch.testing.assert_close(
            made.decode(made.encode(video)), wanted.decode(wanted.encode(video)), atol=0.02, rtol=0
        )
    with pytest.raises(CheckpointError, match="only_decoder"):
        export.export_decoder(tmp_path, other)


def test_step_into_a_new_latent_weighs_more() -> None:
    truth, weights = torch.zeros(1, 3, 8, 16, 16), torch.ones(1, 8, 16, 16)
    inside, edge = truth.clone(), truth.clone()
    inside[:, :, 5:] = 0.1  # a change within the second latent, and one where it begins
    edge[:, :, 4:] = 0.1
    gap = 0.1 / 8  # the change at the edge also lasts one frame longer
    worse = float(autoencoder.reconstruction_loss(edge, truth, weights))
    better = float(autoencoder.reconstruction_loss(inside, truth, weights))
    assert worse - better - gap == pytest.approx(
        autoencoder.TEMPORAL_WEIGHT * (autoencoder.EDGE_WEIGHT - 1) * 0.1 / 7, rel=1e-3
    )


def test_autoencoder_resumes_exactly(corpus: ToyRun, rank: runtime.TrainRank, tmp_path: Path) -> None:
    whole = train_autoencoder(corpus, rank, 3)
    runtime.save_checkpoint(tmp_path / "a.pt", whole.state(1.0))
    resumed = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips), rank)
    resumed.load(runtime.load_checkpoint(tmp_path / "a.pt", rank.device))
    batch = whole.sampler.sample(2)
    for trainer in (whole, resumed):
        trainer.sampler.sample = lambda _: batch  # type: ignore[method-assign]
        trainer.sampler.host.manual_seed(5)
        torch.manual_seed(5)
        trainer.train_step(0.5)
    for (name, a), b in zip(whole.vae.named_parameters(), resumed.vae.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert whole.step == resumed.step


def test_smoothing_makes_latents_change_less_under_small_moves(corpus: ToyRun, rank: runtime.TrainRank) -> None:
    unsteady = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips, smooth=weight), rank)
        rows = [trainer.train_step(0.3) for _ in range(15)]
        unsteady[weight] = sum(float(r["unsteady"] / r["latent_std"] ** 2) for r in rows[-5:])
    assert unsteady[1.0] < unsteady[0.0]


def test_latents_are_normalised_and_aligned(encoded: ToyRun, rank: runtime.TrainRank) -> None:
    cfg = load_config(encoded.run)
    sets = latent_set.load_latents(encoded.run, "train", rank.device)
    assert len(sets) == 2, "one set per orientation"
    flat = torch.cat([s.latents.transpose(0, 1).flatten(1) for s in sets], 1).float()
    assert flat.mean(1).abs().max() < 0.05
    assert (flat.std(1) - 1).abs().max() < 0.05
    bank = features.load_bank(encoded.run, "train", 9, rank.device)
    tracks = torch.tensor([1, 1])
    a = bank.window(tracks, torch.tensor([0, 1]), 2)
    assert a.shape == (2, cfg.speech.num_states, cfg.speech.dim, 9 + 24)
    assert torch.equal(a[0, ..., 9 + 12 :], a[1, ..., 9 : 9 + 12]), "a block's features do not depend on the window"
    assert torch.equal(a[0, ..., :9], a[0, ..., 9:10].expand(-1, -1, 9)), "history before the track is its first frame"
    b = bank.window(tracks, torch.tensor([0, 1]), 2, torch.tensor([0, 2]))
    assert torch.equal(a[0], b[0])
    alike = torch.cosine_similarity(a[1].flatten(), b[1].flatten(), 0)
    assert 0.5 < alike < 0.999, "another recording sounds different, yet says the same"


def test_head_and_eyes_are_stored_per_latent_and_mirrored_with_the_picture(
    encoded: ToyRun, rank: runtime.TrainRank
) -> None:
    photo = toy.sway(toy.FRAMES)
    assert abs(photo) > 0.5, "the photo looks elsewhere than the camera does"
    true = torch.from_numpy(0.2 * (toy.sway(np.arange(toy.FRAMES)) - photo)).float().view(-1, 4).mean(1)
    assert load_config(encoded.run).pose_origin == FROM_PORTRAIT
    bank = features.load_bank(encoded.run, "train", 9, rank.device)
    for data in latent_set.load_latents(encoded.run, "train", rank.device):
        plain, flipped, coloured = data.head.chunk(3)
        torch.testing.assert_close(plain[..., 0], true.expand(len(plain), -1), atol=1e-6, rtol=1e-5)
        assert torch.equal(flipped, plain * torch.tensor([-1.0, 1.0, -1.0]))
        assert torch.equal(coloured, plain)
        window = latents.cut_window(data, bank, torch.tensor([0]), torch.tensor([1]), 2)
        assert window.pose is not None
        assert window.pose.shape == (1, 7, *window.latents.shape[2:])
        torch.testing.assert_close(window.pose[0, 0, :, 0, 0], true[3:9] / POSE_SCALE, atol=1e-5, rtol=1e-5)
        assert (window.pose[:, 3] == 1).all()
        shut = torch.from_numpy(blink(np.arange(toy.FRAMES) / 25, at=0.6)).float().view(-1, 4).mean(1)
        assert shut.max() > 0.4
        torch.testing.assert_close(window.pose[0, 4, :, 0, 0], shut[3:9], atol=1e-3, rtol=1e-3)  # labels are in fp16
        turned = torch.from_numpy(0.2 * toy.sway(np.arange(toy.FRAMES))).float().view(-1, 4).mean(1)
        yaw = (toy.GAZE[0] + FOLLOW * turned[3:9]) / LOOK_SCALE
        torch.testing.assert_close(window.pose[0, 5, :, 0, 0], yaw, atol=1e-4, rtol=1e-4)
        there, back, _ = data.eyes.chunk(3)
        assert torch.equal(back, there * torch.tensor([1.0, -1.0, 1.0]))


def test_teacher_learns(encoded: ToyRun, rank: runtime.TrainRank) -> None:
    trainer = teacher.TeacherTrainer(encoded.args(), rank, load_config(encoded.run))
    batch = trainer.data.sampler.sample(2)
    trainer.data.sampler.sample = lambda _: batch  # type: ignore[method-assign]
    losses = [float(trainer.train_step(0.3)["loss"]) for _ in range(50)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10]), losses
    assert trainer.net.dit.cond_encoder.weight.any(), "nothing of the head's pose was learned"
    noise, sigma = torch.randn(batch.latents.shape), torch.full((2, 3), 0.9)
    with torch.no_grad():
        told, free = (trainer.net.flow(noise, sigma, replace(batch, pose=p)) for p in (batch.pose, None))
    assert (told - free).abs().max() > 1e-3


def test_teacher_resumes(taught: ToyRun, rank: runtime.TrainRank) -> None:
    cfg = load_config(taught.run)
    path = taught.run / "teacher.pt"
    a, b = (teacher.TeacherTrainer(taught.args(), rank, cfg) for _ in range(2))
    batch = a.data.sampler.sample(2)
    for trainer in (a, b):
        trainer.load(runtime.load_checkpoint(path, rank.device))
        trainer.data.sampler.sample = lambda _: batch  # type: ignore[method-assign]
        trainer.train_step(0.5)
    assert all(torch.equal(x, y) for x, y in zip(a.net.parameters(), b.net.parameters(), strict=True))
    assert all(torch.equal(a.average.weights[n], w) for n, w in b.average.weights.items())


def test_teacher_goes_on_from_a_model_that_was_not_told_its_eyes(
    taught: ToyRun, rank: runtime.TrainRank, tmp_path: Path
) -> None:
    export.export_run(taught.run, tmp_path / "model", export.ExportSettings(weights="teacher"))
    path = tmp_path / "model" / "config.json"
    before = load_model(tmp_path / "model", "cpu", torch.float32, parts=("dit", "text"))
    old = replace(
        before.config, dit=replace(before.config.dit, cond_dim=4), lids_conditioned=False, gaze_conditioned=False
    )
    weights = before.dit.state_dict()
    told = weights["cond_encoder.weight"]
    save_model(tmp_path / "model", old, {"dit": weights | {"cond_encoder.weight": told[:, :4].contiguous()}})
    assert load_config(path.parent).dit.cond_dim == 4
    started = teacher.TeacherTrainer(taught.args(init=path.parent), rank, load_config(taught.run))
    weight = started.net.dit.cond_encoder.weight
    assert torch.equal(weight[:, :4], told[:, :4])
    assert told[:, 4:].flatten(2).any(2).all(), "the eyes were told, and something was learned of them"
    assert not weight[:, 4:].any()


def test_teacher_goes_on_from_a_model(
    taught: ToyRun, rank: runtime.TrainRank, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    export.export_run(taught.run, tmp_path / "model", export.ExportSettings(weights="teacher"))
    cfg = load_config(taught.run)
    started = teacher.TeacherTrainer(taught.args(init=tmp_path / "model"), rank, cfg)
    before = runtime.load_checkpoint(taught.run / "teacher.pt", rank.device)["average"]
    for name, weight in started.net.named_parameters():
        torch.testing.assert_close(weight, before[name], atol=2e-3, rtol=2e-3, msg=name)  # the model is in fp16
    assert "head angles" not in caplog.text
    teacher.TeacherTrainer(taught.args(init=tmp_path / "model"), rank, replace(cfg, pose_origin=FROM_CAMERA))
    assert "counts head angles from the portrait, this run from the camera" in caplog.text
    wider = replace(cfg, dit=replace(cfg.dit, ffn_dim=2 * cfg.dit.ffn_dim))
    with pytest.raises(CheckpointError, match="other sizes"):
        teacher.TeacherTrainer(taught.args(init=tmp_path / "model"), rank, wider)


def test_autoencoder_without_seconds_stays_as_it_began(corpus: ToyRun, rank: runtime.TrainRank, tmp_path: Path) -> None:
    export.export_random("tiny", tmp_path / "model")
    options = {"seconds": 0.0, "resume": False, "log_every": 50, "save_every": 60.0}
    autoencoder.train(corpus.args(data=corpus.clips, out=tmp_path, init=tmp_path / "model", **options), rank)
    kept = load_model(tmp_path / "model", "cpu", torch.float32, parts=("vae",)).vae.state_dict()
    made = runtime.load_checkpoint(tmp_path / "autoencoder.pt", rank.device)["average"]
    assert all(torch.equal(made[name], kept[name]) for name in made)


def test_matching_gradient_points_from_fake_to_real(
    taught: ToyRun, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distill.DistillTrainer(taught.args(), rank, load_config(taught.run))
    window = trainer.data.sampler.sample(2)
    clean = window.latents.clone().requires_grad_(True)

    def believes(value: float):  # a score that thinks the clean latents are `value` everywhere
        def flow(x: torch.Tensor, sigma: torch.Tensor, _: Window) -> torch.Tensor:
            return (x - value) / distill.per_latent(sigma)

        return flow

    monkeypatch.setattr(trainer.teacher, "flow", believes(1.0))
    monkeypatch.setattr(trainer.fake, "flow", believes(-1.0))
    loss, _ = trainer._matching_loss(clean, window)
    (gradient,) = torch.autograd.grad(loss, clean)
    scale = (clean - 1).abs().mean((1, 2, 3, 4), keepdim=True)
    expected = -2 / scale * window.weights / clean.numel()
    torch.testing.assert_close(gradient, expected.expand_as(gradient), atol=1e-8, rtol=1e-3)


def test_guidance_pushes_away_from_what_silence_would_do(
    taught: ToyRun, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distill.DistillTrainer(taught.args(guidance=1.5), rank, load_config(taught.run))
    window = trainer.data.sampler.sample(2)

    def flow(x: torch.Tensor, _: torch.Tensor, given: Window) -> torch.Tensor:
        assert torch.equal(given.tokens, window.tokens)
        told = bool(given.features.any())
        return torch.full_like(x, 3.0 if told else 1.0)

    monkeypatch.setattr(trainer.teacher, "flow", flow)
    levels = torch.full((2, trainer.data.sampler.num_blocks), 0.5)
    assert bool((trainer._guided(window.latents, levels, window) == 4.0).all())


def test_student_follows_the_teacher_then_its_own_rollouts(taught: ToyRun, rank: runtime.TrainRank) -> None:
    trainer = distill.DistillTrainer(taught.args(muon=0.003, adamw=1e-3), rank, load_config(taught.run))
    with torch.no_grad():
        trainer.student.dit.head.head.weight.mul_(0.3)  # a student that has something to learn
    losses = [float(trainer.regression_step(0.3)["loss"]) for _ in range(16)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses
    before = {n: p.clone() for n, p in trainer.student.named_parameters()}
    teacher_before = [p.clone() for p in trainer.teacher.parameters()]
    trainer.calls = 0
    rows = [trainer.dmd_step(0.3) for _ in range(distill.FAKE_PER_STUDENT)]
    assert [sorted(r) == ["fake"] for r in rows] == [True, True, False]
    moved = [n for n, p in trainer.student.named_parameters() if not torch.equal(p, before[n])]
    assert any(n.startswith("dit.blocks") for n in moved)
    assert "dit.cond_encoder.weight" in moved
    assert all(torch.equal(a, b) for a, b in zip(teacher_before, trainer.teacher.parameters(), strict=True))


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
    assert load_config(tmp_path / "model").vae == load_config(tmp_path / "before").vae != load_config(taught.run).vae


def test_a_run_that_goes_on_keeps_the_statistics_of_its_latents(
    taught: ToyRun, rank: runtime.TrainRank, tmp_path: Path
) -> None:
    export.export_random("tiny", tmp_path / "before")
    kept = load_config(tmp_path / "before").vae
    latents.encode_stage(
        taught.args(
            data=taught.clips, speech=taught.speech, autoencoder=taught.run, speech_encoder=str(taught.encoder),
            out=tmp_path, probe_seconds=0.1, reader_seconds=0.1, only_speech=False, statistics=tmp_path / "before",
        ),
        rank,
    )  # fmt: skip
    assert load_config(tmp_path).vae == kept
    assert load_config(taught.run).vae != kept


def test_evaluation_and_export(taught: ToyRun, tmp_path: Path) -> None:
    args = taught.args(data=taught.clips, run=taught.run, out=tmp_path, limit=1, blocks=2, steps=[4])
    result = evaluate.evaluate(args)
    assert result["chosen"] == "teacher"
    rows = json.loads((tmp_path / "evaluation.json").read_text())["rows"]
    assert rows["truth"]["energy"] == pytest.approx(1.0, abs=0.02)
    assert {"truth", "autoencoder", "teacher@4", "teacher@4+pose", "teacher@20"} <= rows.keys()
    assert rows["teacher@4"] != rows["teacher@4+pose"]
    assert rows["truth"]["texture_psnr"] > 60 > rows["autoencoder"]["texture_psnr"]
    assert (tmp_path / "sheet_frames_0.jpg").is_file()
    export.export_run(taught.run, tmp_path / "model")
    model = load_model(tmp_path / "model", "cpu", torch.float32)
    assert model.config.vae.std != (1.0,) * 8, "the measured latent statistics are part of the model"
    assert model.config.pose_guided
    assert model.config.lids_conditioned
    assert model.config.gaze_conditioned
    assert model.config.pose_origin == FROM_PORTRAIT
    saved = runtime.load_checkpoint(taught.run / "teacher.pt", torch.device("cpu"))["average"]
    torch.testing.assert_close(model.dit.head.head.weight, saved["dit.head.head.weight"], atol=1e-3, rtol=1e-3)
    assert all(any(name.startswith(part) for name in saved) for part in export.EMBEDDINGS)


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
    named = "teacher, with speech 1.5 times as loud, noise levels shifted by 7, eyes that are not told where to look"
    assert recipe.name("teacher") == named


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
