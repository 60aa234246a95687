"""The square that the probe reads, the values it is taught, and that it reads what it was taught."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from liveavatar.training import probe, runtime
from liveavatar.training.probe import HEAD, PLACE, REACH, SIDE, VALUES, Probe, cut_square, face_square, face_values


def face(eyes: float = 20.0, centre: tuple[float, float] = (50.0, 40.0)) -> torch.Tensor:
    """Landmarks [68, 2] of a face as wide and as high as twice its eye distance."""
    points = torch.zeros(68, 2)
    points[36:42, 0], points[42:48, 0] = -eyes / 2, eyes / 2
    points[[0, 8, 16, 27]] = eyes * torch.tensor([[-1.0, 0], [0, 1.0], [1.0, 0], [0, -1.0]])
    return points + torch.tensor(centre)


def test_square_is_centred_on_the_face_and_as_large_as_its_eyes_are_apart() -> None:
    assert face_square(face()[None]).tolist() == [[50.0, 40.0, pytest.approx(REACH * 20 / 2)]]


@pytest.mark.parametrize("half", [SIDE / 2, SIDE / 4])
def test_cut_shows_the_square(half: float) -> None:
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(240.0), indexing="ij")
    frames = torch.stack([x, y, 0 * x])[None]  # a picture of its own coordinates
    cut = cut_square(frames, torch.tensor([[100.0, 90.0, half]]))[0]
    step = 2 * half / SIDE
    assert cut.shape == (3, SIDE, SIDE)
    assert cut[0, 0, 0] == pytest.approx(100 - half + step / 2, abs=1e-2)
    assert cut[1, -1, 0] == pytest.approx(90 + half - step / 2, abs=1e-2)


def test_outside_the_picture_its_border_goes_on() -> None:
    frames = torch.full((1, 3, 20, 20), 0.7)
    torch.testing.assert_close(cut_square(frames, torch.tensor([[0.0, 0, 30]])), torch.full((1, 3, SIDE, SIDE), 0.7))


def test_values_are_in_the_order_of_their_names() -> None:
    points = face(centre=(54.0, 40.0))[None]  # moved by a tenth of the square to the right
    points[:, 65:68, 1] += 6.0  # the lower inner lip
    points[:, 54, 0] += 10.0
    points[:, [40, 41, 46, 47], 1] += 4.0
    square = torch.tensor([[50.0, 40.0, 40.0]])
    head = torch.tensor([[0.1, 0.2, 0.3]])
    values = face_values(points, head, square)[0]
    named = dict(zip(VALUES, values.tolist(), strict=True))
    assert named["openness"] == pytest.approx(0.3, abs=0.01)
    assert named["width"] == pytest.approx(0.5, abs=0.01)
    assert named["eyes"] == pytest.approx(0.2, abs=0.01)
    assert values[PLACE].tolist() == pytest.approx([0.1, 0.0])
    assert values[HEAD].tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_a_video_is_read_frame_by_frame_in_the_square_of_its_photo() -> None:
    seen: list[torch.Tensor] = []

    def net(squares: torch.Tensor) -> torch.Tensor:
        seen.append(squares)
        return squares.mean((1, 2, 3))[:, None].expand(-1, len(VALUES))

    video = torch.arange(130.0).reshape(1, 1, 130, 1, 1).expand(2, 3, -1, 16, 16).clone()
    video[1] += 1000
    rows = probe.read_video(net, video, torch.stack([face(), face()]))  # type: ignore[arg-type]
    assert rows.shape == (2, 130, len(VALUES))
    torch.testing.assert_close(rows[:, :, 0], torch.arange(130.0).expand(2, -1) + torch.tensor([[0.0], [1000.0]]))
    assert max(len(squares) for squares in seen) <= 128


def test_training_lowers_the_error_and_freezes_the_probe(
    rank: runtime.TrainRank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faces whose only difference is their grey, which is their openness."""
    monkeypatch.setattr(probe, "BATCH", 12)
    monkeypatch.setattr(probe, "RATE", 4e-3)
    monkeypatch.setattr(probe, "SIDE", 32)
    monkeypatch.setattr(runtime.Budget, "fraction", lambda self, step: step / self.seconds)  # updates for seconds
    openness = torch.linspace(0, 0.4, 6)
    landmarks = face()[None, None].repeat(6, 2, 1, 1)
    landmarks[..., 65:68, 1] += 20 * openness[:, None, None]
    frames = (600 * openness).byte().reshape(6, 1, 1, 1, 1).expand(-1, 2, 80, 100, 3)
    clips: Any = SimpleNamespace(frames=frames, landmarks=landmarks, head=torch.zeros(6, 2, 3), num_frames=1)
    torch.manual_seed(0)
    trained = probe.train_probe([clips], rank, 30.0)
    assert not trained.training
    assert not any(p.requires_grad for p in trained.parameters())
    video = frames[:, :1].permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    read = probe.read_video(trained, video, landmarks[:, -1])[:, 0, 0]
    torch.manual_seed(0)
    untrained = probe.read_video(Probe().eval(), video, landmarks[:, -1])[:, 0, 0]
    assert (read - openness).abs().mean() < 0.5 * (untrained - openness).abs().mean()
    assert read[-1] - read[0] > 0.1
