"""Mouth and eyes are read off latents, and a loss on them pulls a network's lips to where they are in truth."""

from pathlib import Path

import pytest
import torch

from liveavatar.training import face_reader, flow, latent_set, runtime
from liveavatar.training.face_reader import EYES, MOUTH, VALUES, FaceReader


def made_up(count: int, generator: torch.Generator) -> latent_set.LatentSet:
    """Latents whose first channels say, at the middle of the face, what mouth and eyes do."""
    values = torch.randn(count, 6, VALUES, generator=generator)
    x = 0.3 * torch.randn(count, 32, 6, 8, 8, generator=generator)
    x[:, :VALUES, :, 3:6, 3:6] += values.mT[..., None, None]
    none = torch.zeros(count)
    return latent_set.LatentSet(
        x.half(), x[:, :, :1].half(), none, none, 3 + 2 * values[..., MOUTH:], 0.1 * values[..., :MOUTH],
        none, none, none, none, none,
    )  # fmt: skip


@pytest.mark.nightly
def test_reader_learns_and_the_loss_moves_lips(rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_reader, "BATCH", 64)
    monkeypatch.setattr(face_reader, "WIDTHS", (32, 48))
    monkeypatch.setattr(runtime.Budget, "fraction", lambda self, step: step / self.seconds)  # updates for seconds
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    reader = face_reader.train_face_reader([made_up(512, generator)], rank, 150.0)
    held = made_up(16, generator)
    skill = face_reader.reading_skill(reader, [held])
    assert min(skill.values()) > 0.5, skill
    assert not any(p.requires_grad for p in reader.parameters())

    true = held.latents[:4].float()
    other = held.latents[4:8].float()
    loss = flow.FaceLoss(reader, 0.5)
    assert float(loss(true, true)) == 0
    assert float(loss(other, true)) > 0.2
    # From noisy latents, a flow that points at other lips is drawn to the true ones.
    sigma = torch.full((4, 2), 0.5)
    noise = torch.randn(true.shape, generator=generator)
    x = flow.add_noise(true, noise, sigma)
    guess = (2 * (x - other)).requires_grad_()
    before = loss.of_flow(x, sigma, guess, noise - true)
    (gradient,) = torch.autograd.grad(before, guess)
    before, guess = before.detach(), guess.detach()
    after = loss.of_flow(x, sigma, guess - 2 * gradient / gradient.norm(), noise - true)
    assert float(after) < float(before)
    torch.testing.assert_close(before, loss(other, true), atol=1e-4, rtol=1e-4)


def test_reader_of_a_run_is_found_again(rank: runtime.TrainRank, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reader = FaceReader(32, 8).eval()
    face_reader.save_face_reader(tmp_path, reader)
    again = face_reader.load_face_reader(tmp_path, rank.device)
    x = torch.randn(1, 32, 3, 16, 8)
    assert torch.equal(again(x), reader(x))
    assert again(x).shape == (1, 3, VALUES)
    assert again(torch.randn(1, 32, 3, 8, 16)).shape == (1, 3, MOUTH + EYES), "either orientation"
    assert flow.load_face_loss(tmp_path, 0.0, rank.device) is None
