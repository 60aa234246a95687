"""What is known of the networks without loading them."""

import pytest
import torch

from liveavatar.config import LIVE_AVATAR_14B, TINY, ModelConfig
from liveavatar.model import AUTOENCODERS, other_autoencoders
from liveavatar.model.vae import build_vae


@pytest.mark.parametrize("config", [TINY, LIVE_AVATAR_14B], ids=lambda config: config.name)
def test_every_autoencoder_is_the_model_s_own_or_another(config: ModelConfig) -> None:
    with torch.device("meta"):
        own = type(build_vae(config.vae)).__module__
    assert {own, *other_autoencoders(config.vae)} == set(AUTOENCODERS.values())
    assert own not in other_autoencoders(config.vae)
