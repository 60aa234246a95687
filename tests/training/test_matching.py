"""The student follows its teacher; distribution matching and guidance point the right way."""

import pytest
import torch

from liveavatar.checkpoints.directory import read_config
from liveavatar.training import distill, matching, runtime
from liveavatar.training.batch import Window
from tests.training.conftest import ToyRun


def toy_trainer(taught: ToyRun, rank: runtime.TrainRank, **options: object) -> matching.DistillTrainer:
    args, cfg = taught.args(**options), read_config(taught.run)
    student = distill.build_student(args, rank, cfg, distill.teacher_weights(args, rank))
    return distill.build_trainer(args, rank, cfg, student)


def test_matching_gradient_points_from_fake_to_real(
    taught: ToyRun, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = toy_trainer(taught, rank)
    window = trainer.data.sampler.sample(2)
    clean = window.latents.clone().requires_grad_(True)

    def believes(value: float):  # a score that thinks the clean latents are `value` everywhere
        def flow(x: torch.Tensor, sigma: torch.Tensor, _: Window) -> torch.Tensor:
            return (x - value) / matching.per_latent(sigma)

        return flow

    monkeypatch.setattr(trainer.nets.teacher, "flow", believes(1.0))
    monkeypatch.setattr(trainer.nets.fake, "flow", believes(-1.0))
    loss, _ = trainer.matching_loss(clean, window)
    (gradient,) = torch.autograd.grad(loss, clean)
    scale = (clean - 1).abs().mean((1, 2, 3, 4), keepdim=True)
    expected = -2 / scale * window.weights / clean.numel()
    torch.testing.assert_close(gradient, expected.expand_as(gradient), atol=1e-8, rtol=1e-3)


def test_guidance_pushes_away_from_what_silence_would_do(
    taught: ToyRun, rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = toy_trainer(taught, rank, guidance=1.5)
    window = trainer.data.sampler.sample(2)

    def flow(x: torch.Tensor, _: torch.Tensor, given: Window) -> torch.Tensor:
        assert torch.equal(given.tokens, window.tokens)
        told = bool(given.features.any())
        return torch.full_like(x, 3.0 if told else 1.0)

    monkeypatch.setattr(trainer.nets.teacher, "flow", flow)
    levels = torch.full((2, window.latents.shape[2] // 3), 0.5)
    assert bool((trainer.guided(window.latents, levels, window) == 4.0).all())


@pytest.mark.nightly
def test_student_follows_the_teacher_then_its_own_rollouts(taught: ToyRun, rank: runtime.TrainRank) -> None:
    trainer = toy_trainer(taught, rank, muon=0.003, adamw=1e-3)
    student, teacher = trainer.nets.student, trainer.nets.teacher
    assert isinstance(student, distill.WholeNetwork)
    assert isinstance(teacher, distill.WholeNetwork)
    with torch.no_grad():
        student.net.dit.head.head.weight.mul_(0.3)  # a student that has something to learn
    losses = [float(trainer.regression_step(0.3)["loss"]) for _ in range(16)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses
    before = {n: p.clone() for n, p in student.net.named_parameters()}
    teacher_before = [p.clone() for p in teacher.net.parameters()]
    trainer.calls = 0
    rows = [trainer.dmd_step(0.3) for _ in range(matching.FAKE_PER_STUDENT)]
    assert [sorted(r) == ["fake"] for r in rows] == [True, True, False]
    assert {"dmd", "anchor", "face", "grad_norm"} < rows[-1].keys()
    moved = [n for n, p in student.net.named_parameters() if not torch.equal(p, before[n])]
    assert any(n.startswith("dit.blocks") for n in moved)
    assert "dit.cond_encoder.weight" in moved
    assert all(torch.equal(a, b) for a, b in zip(teacher_before, teacher.net.parameters(), strict=True))


def test_without_an_anchor_the_teacher_walks_no_trajectory(taught: ToyRun, rank: runtime.TrainRank) -> None:
    trainer = toy_trainer(taught, rank, anchor=0.0, face_loss=0.0)
    trainer.calls = matching.FAKE_PER_STUDENT - 1
    assert set(trainer.dmd_step(0.3)) == {"dmd", "grad_norm", "fake"}
