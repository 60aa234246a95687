"""The student follows its teacher; distribution matching and guidance point the right way."""

import pytest
import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.training import distill, runtime
from liveavatar.training.latents import Window
from tests.training.conftest import ToyRun


def test_matching_gradient_points_from_fake_to_real(
    taught: ToyRun, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distill.DistillTrainer(taught.args(), rank, read_config(taught.run))
    window = trainer.data.sampler.sample(2)
    clean = window.latents.clone().requires_grad_(True)

    def believes(value: float):  # a score that thinks the clean latents are `value` everywhere
        def flow(x: torch.Tensor, sigma: torch.Tensor, _: Window) -> torch.Tensor:
            return (x - value) / distill.per_latent(sigma)

        return flow

    monkeypatch.setattr(trainer.teacher, "flow", believes(1.0))
    monkeypatch.setattr(trainer.fake, "flow", believes(-1.0))
    loss, _ = trainer.matching_loss(clean, window)
    (gradient,) = torch.autograd.grad(loss, clean)
    scale = (clean - 1).abs().mean((1, 2, 3, 4), keepdim=True)
    expected = -2 / scale * window.weights / clean.numel()
    torch.testing.assert_close(gradient, expected.expand_as(gradient), atol=1e-8, rtol=1e-3)


def test_guidance_pushes_away_from_what_silence_would_do(
    taught: ToyRun, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distill.DistillTrainer(taught.args(guidance=1.5), rank, read_config(taught.run))
    window = trainer.data.sampler.sample(2)

    def flow(x: torch.Tensor, _: torch.Tensor, given: Window) -> torch.Tensor:
        assert torch.equal(given.tokens, window.tokens)
        told = bool(given.features.any())
        return torch.full_like(x, 3.0 if told else 1.0)

    monkeypatch.setattr(trainer.teacher, "flow", flow)
    levels = torch.full((2, trainer.data.sampler.num_blocks), 0.5)
    assert bool((trainer.guided(window.latents, levels, window) == 4.0).all())


def test_student_follows_the_teacher_then_its_own_rollouts(taught: ToyRun, rank: runtime.TrainRank) -> None:
    trainer = distill.DistillTrainer(taught.args(muon=0.003, adamw=1e-3), rank, read_config(taught.run))
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
