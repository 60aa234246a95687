"""Features in memory: cut along time, with the same shape as those of a file."""

import torch

from liveavatar.engine.job import TensorFeatures


def test_features_are_cut_along_time() -> None:
    whole = torch.arange(2 * 3 * 10).view(2, 3, 10)
    features = TensorFeatures(whole)
    assert features.shape == (2, 3, 10)
    assert torch.equal(features[4:7], whole[:, :, 4:7])
    assert features[8:20].shape == (2, 3, 2)
