"""Configs of the large model's networks, scaled down to a few thousand weights."""

from dataclasses import replace

from liveavatar.config import LIVE_AVATAR_14B, VAEConfig

SMALL_DIT = replace(
    LIVE_AVATAR_14B.dit, dim=96, num_heads=3, num_layers=3, ffn_dim=192, in_dim=4, out_dim=4, cond_dim=4, text_dim=16,
    text_len=8, audio_dim=32, audio_layers=3, audio_inject_layers=(0, 2), freq_dim=32,
)  # fmt: skip
SMALL_VAE = VAEConfig(
    kind="wan", z_dim=4, spatial_stride=8, encoder_widths=(4, 8, 8, 8), decoder_widths=(16, 16, 8, 8),
    mean=tuple(0.1 * i for i in range(4)), std=tuple(1.0 + 0.1 * i for i in range(4)), num_res_blocks=1,
)  # fmt: skip
