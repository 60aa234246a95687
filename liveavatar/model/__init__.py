"""Networks, single-device: transformer, KV ring, video autoencoders, text encoders.

Owns layers, shapes and streaming state. Does not know files, devices of a cluster, denoise schedules or jobs.
"""

from liveavatar.config import VAEConfig

AUTOENCODERS = {"compact": "liveavatar.model.vae_compact", "wan": "liveavatar.model.vae_wan"}  # module of each kind


def other_autoencoders(cfg: VAEConfig) -> list[str]:
    """List the modules of the autoencoders that `cfg` does not describe, without importing any."""
    return [module for kind, module in AUTOENCODERS.items() if kind != cfg.kind]
