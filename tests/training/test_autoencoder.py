"""The autoencoder learns, resumes exactly, and keeps its encoder while the decoder trains alone."""

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from liveavatar.checkpoints.load import load_model
from liveavatar.training import autoencoder, export, runtime
from tests.training.conftest import ToyRun


def train_autoencoder(corpus: ToyRun, rank: runtime.TrainRank, steps: int) -> autoencoder.AutoencoderTrainer:
    torch.manual_seed(0)
    trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips), rank)
    for i in range(steps):
        trainer.train_step(i / steps)
    return trainer


def test_autoencoder_learns(corpus: ToyRun, rank: runtime.TrainRank) -> None:
    torch.manual_seed(0)
    trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips), rank)
    batch = trainer.sampler.sample(2)
    trainer.sampler.sample = lambda _: batch  # type: ignore[method-assign]
    losses = [float(trainer.train_step(0.3)["loss"]) for _ in range(40)]
    assert min(losses[-5:]) < 0.85 * losses[0], losses


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


@pytest.mark.nightly
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


@pytest.mark.nightly
def test_smoothing_makes_latents_change_less_under_small_moves(corpus: ToyRun, rank: runtime.TrainRank) -> None:
    unsteady = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        trainer = autoencoder.AutoencoderTrainer(corpus.args(data=corpus.clips, smooth=weight), rank)
        rows = [trainer.train_step(0.3) for _ in range(15)]
        unsteady[weight] = sum(float(r["unsteady"] / r["latent_std"] ** 2) for r in rows[-5:])
    assert unsteady[1.0] < unsteady[0.0]


def test_autoencoder_without_seconds_stays_as_it_began(corpus: ToyRun, rank: runtime.TrainRank, tmp_path: Path) -> None:
    export.export_random("tiny", tmp_path / "model")
    options = {"seconds": 0.0, "resume": False, "log_every": 50, "save_every": 60.0}
    autoencoder.train(corpus.args(data=corpus.clips, out=tmp_path, init=tmp_path / "model", **options), rank)
    kept = load_model(tmp_path / "model", "cpu", torch.float32, parts=("vae",)).vae.state_dict()
    made = runtime.load_checkpoint(tmp_path / "autoencoder.pt", rank.device)["average"]
    assert all(torch.equal(made[name], kept[name]) for name in made)
