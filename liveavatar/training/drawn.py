"""Latents as the transformer draws them, in step with the true pictures, to train a decoder on.

At inference a decoder never sees encoded pictures. The transformer's latents follow the truth less closely, and a
decoder that was trained on encoded ones draws a third less of the face's gradient energy from them. Here the true
latents of a clip get noise of a level from which a render has some steps left; the transformer takes these, with the
clip's speech, pose, lids and portrait. The result has its faults and still lies where the truth lies.

Shapes: n clips, B batch, C latent channels, T latents, h/w latent cells.
"""

from pathlib import Path

import torch
from torch import Tensor

from liveavatar.checkpoints.directory import read_config
from liveavatar.config import FROM_PORTRAIT, ModelConfig
from liveavatar.model.text import tokenize_batch
from liveavatar.model.vae_compact import CompactVAE
from liveavatar.pose.track import latent_track, mirrored, mirrored_eyes, pose_latents
from liveavatar.quality.reference import to_video
from liveavatar.timing import BLOCK_FRAMES
from liveavatar.training import runtime
from liveavatar.training.batch import Window
from liveavatar.training.data import Clips
from liveavatar.training.export import avatar_weights
from liveavatar.training.features import FeatureBank
from liveavatar.training.flow import AvatarNet, add_noise, level, rollout

STEPS = 4  # of a render
BATCH = 12  # clips drawn together
# Noise levels to begin at. From 0.5 the drawing keeps 0.72 of a face's gradient energy, from 0.7 0.67, from pure noise
# 0.63 (0.80 encoded; one clip), and the mouth lies ever less where the truth has it.
LEVELS = (0.4, 0.9)


def load_drawer(model_dir: Path, device: torch.device) -> AvatarNet:
    """Load the transformer of a model directory as a network for windows."""
    cfg = read_config(model_dir)
    net = AvatarNet(cfg)
    net.load_state_dict(avatar_weights(model_dir, cfg.dit.cond_dim))
    return net.to(device).eval().requires_grad_(False)


@torch.no_grad()
def draw_clips(
    net: AvatarNet,
    vae: CompactVAE,
    clips: Clips,
    bank: FeatureBank,
    rank: runtime.TrainRank,
    seed: int = 0,
    levels: tuple[float, float] = LEVELS,
) -> Tensor:
    """Draw every clip plain and mirrored: fp16 [n, 2, C, T, h, w] for its whole blocks.

    Args:
        net, vae: transformer and autoencoder of one model.
        clips: on the rank's device.
        bank: speech features of their tracks.
        rank: of this process.
        seed: of the noise.
        levels: each batch begins at a noise level between these, and takes the levels of a render below it.
    """
    generator = rank.generator(1000 + seed)
    host = torch.Generator().manual_seed(generator.initial_seed())
    low, high = levels
    drawn = []
    for index in torch.arange(len(clips.frames)).split(BATCH):
        both = []
        for mirror in (False, True):
            window = clip_window(net.cfg, vae, clips, bank, index.to(clips.tracks.device), mirror, rank)
            start = low + (high - low) * float(torch.rand((), generator=host))
            noise = torch.randn(window.latents.shape, device=rank.device, generator=generator)
            begun = add_noise(window.latents, noise, level(noise, start))
            sigmas = [start, *(sigma for sigma in net.cfg.sigmas[STEPS] if sigma < start)]
            with rank.autocast():
                both.append(rollout(net, window, sigmas, begun).half())
        drawn.append(torch.stack(both, 1))
    return torch.cat(drawn)


def clip_window(
    cfg: ModelConfig,
    vae: CompactVAE,
    clips: Clips,
    bank: FeatureBank,
    index: Tensor,
    mirror: bool,
    rank: runtime.TrainRank,
) -> Window:
    """Encode clips number `index` [B] and collect their conditions, of the whole blocks; mirrored with `mirror`."""
    num_blocks = clips.num_frames // BLOCK_FRAMES
    count = num_blocks * BLOCK_FRAMES
    video = to_video(clips.frames[index])
    head, eyes = clips.head[index, :count], clips.eyes[index, :count]
    origin = clips.head[index, -1:] if cfg.pose_origin == FROM_PORTRAIT else torch.zeros_like(head[:, :1])
    head, eyes = latent_track(head - origin), latent_track(eyes)
    if mirror:
        video, head, eyes = video.flip(-1), mirrored(head), mirrored_eyes(eyes)
    with rank.autocast():
        latents = vae.encode(video[:, :, :count]).float()
        reference = vae.encode_still(video[:, :, -1:], 1).float()
    seen = eyes if cfg.gaze_conditioned else eyes[..., :1]
    h, w = latents.shape[-2:]
    pose = pose_latents(head, h, w, seen, cfg.dit.cond_dim) if cfg.pose_guided else None
    captions = [clips.captions[i] for i in index.tolist()]
    return Window(
        latents, reference, torch.ones_like(latents[:, :1]),
        bank.window(clips.tracks[index], clips.blocks[index], num_blocks),
        tokenize_batch(captions, cfg.text).to(rank.device), pose,
    )  # fmt: skip
