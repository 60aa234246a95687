"""The factory of autoencoders: both kinds have one interface."""

import inspect
from dataclasses import replace

import pytest
import torch

from liveavatar.config import LIVE_AVATAR_14B, TINY, VAEConfig
from liveavatar.errors import CheckpointError
from liveavatar.model.vae import VideoVAE, build_vae
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.model.vae_wan import WanVAE


@pytest.mark.parametrize(
    ("config", "kind"), [(TINY.vae, CompactVAE), (LIVE_AVATAR_14B.vae, WanVAE)], ids=["compact", "wan"]
)
def test_a_config_builds_its_kind_with_the_whole_interface(config: VAEConfig, kind: type) -> None:
    with torch.device("meta"):
        vae = build_vae(config)
    assert type(vae) is kind
    assert isinstance(vae, VideoVAE)
    assert vae.config is config
    for name in (
        "encode",
        "encode_still",
        "decode",
        "encode_stream",
        "decode_stream",
        "prime_decoder",
        "set_reference",
    ):
        wanted = list(inspect.signature(getattr(VideoVAE, name)).parameters)
        assert list(inspect.signature(getattr(kind, name)).parameters) == wanted, name


def test_another_kind_is_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"kind 'ltx'; known kinds are 'wan' and 'compact'"):
        build_vae(replace(TINY.vae, kind="ltx"))
