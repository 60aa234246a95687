"""Windows with and without a told head."""

import torch

from liveavatar.pose.track import EYES, HEAD
from liveavatar.training.batch import Window


def test_a_free_head_keeps_eyes_and_everything_else() -> None:
    pose = torch.randn(2, HEAD + EYES, 3, 2, 2)
    window = Window(*(torch.randn(2, 1) for _ in range(5)), pose, torch.tensor([True, False]))
    free = window.with_free_head()
    assert free.pose is not None
    assert not free.pose[:, :HEAD].any()
    assert torch.equal(free.pose[:, HEAD:], pose[:, HEAD:])
    assert all(getattr(free, name) is getattr(window, name) for name in ("latents", "features", "tokens", "bound"))
    assert window.pose is pose, "the window itself stays as it was"


def test_a_window_without_pose_is_free_already() -> None:
    window = Window(*(torch.zeros(1) for _ in range(5)))
    assert window.with_free_head() is window
