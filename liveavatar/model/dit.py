"""Causal speech-to-video diffusion transformer: the 14B and the `mini` are two configs of this class.

It predicts the flow v = noise - x0 of one block of three latents. Three entry points share all weights:
`prefill` computes the sinks (reference + packed motion, noise level 0), `step` denoises one block of a
stream against a `KVRing`, and `forward_window` does the same for a run of blocks at once, with
gradients, for training; a test holds them equal. State-dict names are the official checkpoint's.

Shapes: B batch, C latent channels, T latents, h/w latent height and width, S tokens per latent
(h/2 * w/2), L tokens, D width, N heads, H head width, A speakers.
Source: the fact specification of Live Avatar (arXiv 2512.04677) and Wan2.2-S2V.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveavatar.config import DiTConfig
from liveavatar.model.audio_encoder import AudioTokens, CausalAudioEncoder, latent_start
from liveavatar.model.kv_ring import KVRing, Sink
from liveavatar.model.layers import Attention, AudioInjector, DiTBlock, Head, attend, inject
from liveavatar.model.motion import FramePacker, motion_rotation
from liveavatar.model.rope import Rotation, grid_rotation, rotate
from liveavatar.timing import BLOCK_LATENTS

NOISY, REFERENCE, MOTION = range(3)  # rows of the token-kind embedding
TIMESTEP_SCALE = 1000.0  # the time embedding is trained on t = 1000 * sigma

TextKV = list[tuple[Tensor, ...]]  # keys, values; of the fast path also counts, see `fast.dit.FastDiT.text_kv`
AudioKV = list[tuple[Tensor, Tensor, Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """A noise level embedded: e [..., D] for the head, e0 [..., 6, D] for the blocks; both fp32."""

    e: Tensor
    e0: Tensor


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditioning of a block, computed once and used by every denoise step."""

    text_kv: TextKV  # per layer, [B, N, text_len, H]
    audio_kv: AudioKV  # per injector
    pose: Tensor | None = None  # [B, cond_dim, 3, h, w]; None is all zeros
    speaker_mask: Tensor | None = None  # [A, 3, h/2, w/2, 1]; one speaker needs none


@dataclass(frozen=True, slots=True)
class WindowRotations:
    """Rotations of a training window."""

    tokens: Rotation  # of all noisy tokens
    prefill: Rotation  # of the sink tokens while they are computed
    sinks: tuple[Rotation, ...]  # of the sink tokens as each block sees them


@dataclass(frozen=True, slots=True)
class WindowLevels:
    """Projected noise levels [B, G, 6, D] of a training window."""

    noisy: Tensor  # G blocks
    sink: Tensor  # noise level 0


@dataclass(frozen=True, slots=True)
class WindowConditions:
    """All that every layer of a training window is given beside the tokens."""

    text_BLD: Tensor  # embedded text
    audio: AudioTokens
    levels: WindowLevels
    rotations: WindowRotations
    causal: bool = True  # False: all tokens attend to all


class CausalDiT(nn.Module):
    """Causal diffusion transformer. All methods take latents [B, C, T, h, w] normalised by the autoencoder."""

    def __init__(self, cfg: DiTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        D, patch = cfg.dim, cfg.patch
        # In the order of the official checkpoint's index.
        self.patch_embedding = nn.Conv3d(cfg.in_dim, D, patch, patch)
        self.text_embedding = nn.Sequential(nn.Linear(cfg.text_dim, D), nn.GELU(approximate="tanh"), nn.Linear(D, D))
        self.time_embedding = nn.Sequential(nn.Linear(cfg.freq_dim, D), nn.SiLU(), nn.Linear(D, D))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(D, 6 * D))
        self.blocks = nn.ModuleList(DiTBlock(D, cfg.num_heads, cfg.ffn_dim, cfg.eps) for _ in range(cfg.num_layers))
        self.head = Head(D, cfg.out_dim * patch[0] * patch[1] * patch[2], cfg.eps)
        self.cond_encoder = nn.Conv3d(cfg.cond_dim, D, patch, patch)
        self.casual_audio_encoder = CausalAudioEncoder(cfg.audio_dim, cfg.audio_layers, D, cfg.num_audio_token, cfg.eps)
        self.audio_injector = AudioInjector(D, cfg.num_heads, len(cfg.audio_inject_layers), cfg.eps)
        self.trainable_cond_mask = nn.Embedding(3, D)
        self.frame_packer = FramePacker(cfg.in_dim, D)
        self.injector_of = {layer: i for i, layer in enumerate(cfg.audio_inject_layers)}
        self.kept = range(cfg.num_layers)  # layers whose weights are there

    def keep_layers(self, layers: range) -> None:
        """Drop the weights of all other layers and of their audio injectors, for one rank of a group.

        Modulations stay: they are small, and a layer's input is gated by that of the layer before.
        """
        self.kept = layers
        injector, adain = self.audio_injector.injector, self.audio_injector.injector_adain_layers
        for layer, block in enumerate(self.blocks):
            if layer in layers:
                continue
            for name, _ in list(block.named_children()):
                delattr(block, name)
            if layer in self.injector_of:
                injector[self.injector_of[layer]] = nn.Module()
                adain[self.injector_of[layer]] = nn.Module()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of tokens and weights."""
        return self.patch_embedding.weight.dtype

    # Embeddings ------------------------------------------------------------------------------------

    def embed_text(self, text_BLC: Tensor) -> Tensor:
        """Project text encoder rows [B, L, text_dim] to [B, text_len, D]; missing rows are zero, none is masked."""
        return self.text_embedding(F.pad(text_BLC, (0, 0, 0, self.cfg.text_len - text_BLC.shape[1])).to(self.dtype))

    def text_kv(self, text_BLD: Tensor) -> TextKV:
        """Compute keys and values of embedded text for every layer; constant over a job."""
        return [block.cross_attn.key_value(text_BLD) for block in self.blocks]

    def encode_audio(self, features_BLCT: Tensor) -> AudioTokens:
        """Encode the audio of whole blocks: one row of tokens per latent.

        Args:
            features_BLCT: speech features [B, hidden states, C, frames]; `audio_history_frames` true frames
                first when the config asks for them, then 12 frames per block.
        """
        cfg = self.cfg
        features = features_BLCT.to(self.casual_audio_encoder.encoder.conv2.conv.weight.dtype)
        if cfg.audio_norm:
            features = F.layer_norm(features.transpose(2, 3), (cfg.audio_dim,)).transpose(2, 3)
        if cfg.audio_prefix_frames:
            features = torch.cat((features[..., :1].expand(-1, -1, -1, cfg.audio_prefix_frames), features), dim=-1)
        tokens = self.casual_audio_encoder(features)
        return tokens[slice(latent_start(cfg.audio_prefix_frames + cfg.audio_history_frames), None)]

    def audio_kv(self, tokens: AudioTokens) -> AudioKV:
        """Compute every injector's conditioning of a block's audio; constant over its denoise steps."""
        local, global_ = tokens.local.to(self.dtype), tokens.global_.to(self.dtype)
        return [self.audio_injector.condition(i, local, global_) for i in range(len(self.injector_of))]

    def noise_level(self, sigma: Tensor) -> NoiseLevel:
        """Embed noise levels sigma [...] in 0..1 (t = 1000 * sigma), in fp32."""
        half = self.cfg.freq_dim // 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=sigma.device) / half)
        angle = (sigma.float() * TIMESTEP_SCALE).double()[..., None] * frequency  # t is fp32 in the released sampler
        with torch.autocast(sigma.device.type, enabled=False):
            x = torch.cat((angle.cos(), angle.sin()), dim=-1).float()
            e = _fp32(self.time_embedding, x)
            return NoiseLevel(e, _fp32(self.time_projection, e).unflatten(-1, (6, -1)))

    def _tokens(self, embedding: nn.Conv3d, latents_BCThw: Tensor) -> Tensor:
        return embedding(latents_BCThw.to(self.dtype)).flatten(2).transpose(1, 2)

    def noisy_tokens(self, x_BCThw: Tensor, pose: Tensor | None) -> Tensor:
        """Embed noisy latents and their pose latents as patch tokens [B, T*S, D]."""
        posed = self.cond_encoder.bias if pose is None else self._tokens(self.cond_encoder, pose)
        return self._tokens(self.patch_embedding, x_BCThw) + posed + self.trainable_cond_mask.weight[NOISY]

    def sink_tokens(self, reference_BC1hw: Tensor, motion_BCThw: Tensor) -> Tensor:
        """Embed the reference latent, then the packed motion latents: tokens [B, L, D]."""
        reference = self._tokens(self.patch_embedding, reference_BC1hw) + self.trainable_cond_mask.weight[REFERENCE]
        motion = self.frame_packer(motion_BCThw.to(self.dtype)) + self.trainable_cond_mask.weight[MOTION]
        return torch.cat((reference, motion), dim=1)

    # Positions -------------------------------------------------------------------------------------

    def block_rotation(self, frame: int, h: int, w: int, device: torch.device) -> Rotation:
        """Compute the rotation of the block whose first latent has index `frame` in the whole stream."""
        times = range(frame, frame + BLOCK_LATENTS)
        return grid_rotation(times, h // 2, w // 2, self.cfg.head_dim, self.cfg.rope_half, device)

    def sink_rotation(self, frame: int, distance: int, h: int, w: int, device: torch.device) -> Rotation:
        """Compute the rotation of the sink tokens for the block at latent `frame`.

        The reference stays `distance` latents ahead of the block once that is past `ref_base`.
        """
        cfg = self.cfg
        time = max(cfg.ref_base, frame + distance)
        reference = grid_rotation(range(time, time + 1), h // 2, w // 2, cfg.head_dim, cfg.rope_half, device)
        shift = frame if cfg.anchor_motion else 0
        motion = motion_rotation(h, w, cfg.head_dim, cfg.rope_half, device, shift)
        return Rotation(torch.cat((reference.cos, motion.cos)), torch.cat((reference.sin, motion.sin)))

    @lru_cache(maxsize=8)  # noqa: B019 (a handful of small tensors; building them waits for the GPU)
    def window_rotations(self, starts: tuple[int, ...], h: int, w: int, device: torch.device) -> WindowRotations:
        """Compute the rotations of a training window whose blocks start at these latents."""
        blocks = [self.block_rotation(f, h, w, device) for f in starts]
        return WindowRotations(
            tokens=Rotation(torch.cat([r.cos for r in blocks]), torch.cat([r.sin for r in blocks])),
            prefill=self.sink_rotation(0, self.cfg.ref_base, h, w, device),
            sinks=tuple(self.sink_rotation(f, self.cfg.ref_distance[0], h, w, device) for f in starts),
        )

    # Inference -------------------------------------------------------------------------------------

    def prefill(self, reference_BC1hw: Tensor, motion_BCThw: Tensor, text_kv: TextKV) -> Sink:
        """Compute the sinks: reference and motion attend to one another at noise level 0, without audio."""
        h, w = reference_BC1hw.shape[-2:]
        x = self.sink_tokens(reference_BC1hw, motion_BCThw)
        level = self.noise_level(torch.zeros(1, 1, device=x.device))
        rotation = self.sink_rotation(0, self.cfg.ref_base, h, w, x.device)
        keys, values = [], []
        for block, kv in zip(self.blocks, text_kv, strict=True):
            mod = block.modulate(level.e0)
            q, k, v = block.self_qkv(x, mod)
            keys.append(k)
            values.append(v)
            if block is not self.blocks[-1]:  # nothing reads what the last block makes of the sinks
                x = block.finish(x, attend(rotate(q, rotation), rotate(k, rotation), v), mod, kv)
        return Sink(keys, values, num_reference=(h // 2) * (w // 2))

    def place_sink(self, ring: KVRing, sink: Sink, rotation: Rotation) -> None:
        """Rotate the sink keys to their positions for the next block and write them into the ring."""
        for layer, k in enumerate(sink.k):
            ring.write_sink_keys(layer, rotate(k, rotation))

    def step(
        self, x_BCThw: Tensor, level: NoiseLevel, cond: Conditions, ring: KVRing, frame: int, rotation: Rotation
    ) -> Tensor:
        """Predict the flow of one block [B, C, 3, h, w] at one noise level.

        Args:
            x_BCThw: the noisy block.
            level: its noise level, from `noise_level` of a [1, 1] sigma.
            cond: text, audio, pose.
            ring: that of this denoise step; the block's keys and values are written into it.
            frame: index of the block's first latent in the whole stream.
            rotation: `block_rotation(frame)`; the sink must have been placed for this block.
        """
        h, w = x_BCThw.shape[-2:]
        x = self.noisy_tokens(x_BCThw, cond.pose)
        start = frame * (h // 2) * (w // 2)
        for layer, block in enumerate(self.blocks):
            mod = block.modulate(level.e0)
            q, k, v = block.self_qkv(x, mod)
            ring.write(layer, start, rotate(k, rotation), v)
            x = block.finish(
                x, attend(rotate(q, rotation), *ring.view(layer, start + x.shape[1])), mod, cond.text_kv[layer]
            )
            x = self._inject(layer, x, cond)
        return self._unpatchify(self.head(x, level.e), h, w)

    def _inject(self, layer: int, x_BLD: Tensor, cond: Conditions) -> Tensor:
        index = self.injector_of.get(layer)
        if index is None:
            return x_BLD
        return self.inject_audio(self.audio_injector.injector[index], x_BLD, cond.audio_kv[index], cond.speaker_mask)

    def inject_audio(
        self,
        attention: Attention,
        x_BLD: Tensor,
        audio: tuple[Tensor, Tensor, Tensor, Tensor],
        speaker_mask: Tensor | None,
    ) -> Tensor:
        """Add one injector's residual; several speakers' are masked and summed. A unit of `torch.compile`."""
        residual = inject(attention, x_BLD, audio)
        if speaker_mask is not None:
            residual = (residual * speaker_mask.flatten(1, 3)).sum(0, keepdim=True)
        return (x_BLD + residual).to(x_BLD.dtype)

    def _unpatchify(self, x_BLP: Tensor, h: int, w: int) -> Tensor:
        _, p, q = self.cfg.patch
        x = x_BLP.unflatten(-1, (p, q, self.cfg.out_dim)).unflatten(1, (-1, h // p, w // q))
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(3, 4).flatten(4, 5)  # B C T (y p) (x q)

    # Training --------------------------------------------------------------------------------------

    def forward_window(
        self,
        x_BCThw: Tensor,
        sigma_Bb: Tensor,
        sinks: tuple[Tensor, Tensor],
        text_BLC: Tensor,
        features_BLCT: Tensor,
        frame: int = 0,
        pose: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        """Predict the flow of a run of blocks, each attending as in a stream that started with this run.

        Args:
            x_BCThw: noisy latents, T = 3 * b.
            sigma_Bb: noise level of every block.
            sinks: reference [B, C, 1, h, w] and motion [B, C, 19, h, w] latents.
            text_BLC: text encoder rows, zero rows where text is dropped.
            features_BLCT: speech features, history first as in `encode_audio`.
            frame: index of the first latent in the whole stream.
            pose: pose latents [B, cond_dim, T, h, w], or None.
            causal: False lets all tokens, sinks included, attend to all, as the base of the 14B was trained; the
                sinks then keep their positions of the start.

        Returns:
            Flow [B, C, T, h, w] in the weights' (or autocast's) dtype.
        """
        h, w = x_BCThw.shape[-2:]
        device = x_BCThw.device
        num_blocks = sigma_Bb.shape[1]
        starts = range(frame, frame + num_blocks * BLOCK_LATENTS, BLOCK_LATENTS)
        level, level0 = self.noise_level(sigma_Bb), self.noise_level(torch.zeros(1, 1, device=device))
        text, audio = self.embed_text(text_BLC), self.encode_audio(features_BLCT)
        audio = AudioTokens(audio.local.to(self.dtype), audio.global_.to(self.dtype))
        x, s = self.noisy_tokens(x_BCThw, pose), self.sink_tokens(*sinks)
        rotations = self.window_rotations(tuple(starts), h, w, device)
        cond = WindowConditions(text, audio, WindowLevels(level.e0, level0.e0), rotations, causal)
        for layer in range(len(self.blocks)):
            x, s = self.window_layer(layer, x, s, cond)
        return self._unpatchify(self.head(x, level.e), h, w)

    def window_layer(
        self, layer: int, x_BLD: Tensor, sink_BLD: Tensor, cond: WindowConditions
    ) -> tuple[Tensor, Tensor]:
        """Run one layer of `forward_window`, audio included, on noisy and sink tokens.

        All that the layer's weights make of text and audio is computed here, so that its weights are needed once.
        """
        block = self.blocks[layer]
        text_kv = block.cross_attn.key_value(cond.text_BLD)
        x, s = self.window_block(block, (x_BLD, sink_BLD), cond.levels, cond.rotations, text_kv, cond.causal)
        index = self.injector_of.get(layer)
        if index is None:
            return x, s
        audio = self.audio_injector.condition(index, cond.audio.local, cond.audio.global_)
        return self.inject_audio(self.audio_injector.injector[index], x, audio, None), s

    def window_block(
        self,
        block: DiTBlock,
        tokens: tuple[Tensor, Tensor],
        levels: WindowLevels,
        rotations: WindowRotations,
        text_kv: tuple[Tensor, ...],
        causal: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Run a layer without its audio. A unit of `torch.compile`: one graph for all layers."""
        x, s = tokens
        rotation, prefill = rotations.tokens, rotations.prefill
        mod, mod0 = block.modulate(levels.noisy), block.modulate(levels.sink)
        q, k, v = block.self_qkv(x, mod)
        q, k = rotate(q, rotation), rotate(k, rotation)
        qs, ks, vs = block.self_qkv(s, mod0)
        if not causal:
            queries, keys = (torch.cat((rotate(of_s, prefill), of_x), dim=2) for of_s, of_x in ((qs, q), (ks, k)))
            everything = attend(queries, keys, torch.cat((vs, v), dim=2))
            of_s, of_x = everything[:, : s.shape[1]], everything[:, s.shape[1] :]
            return block.finish(x, of_x, mod, text_kv), block.finish(s, of_s, mod0, text_kv)
        span = x.shape[1] // len(rotations.sinks)
        window = self.cfg.window_latents // BLOCK_LATENTS * span
        attended = []
        for i, sink_rotation in enumerate(rotations.sinks):
            end = (i + 1) * span
            past = slice(max(0, end - window), end)
            keys = torch.cat((rotate(ks, sink_rotation), k[:, :, past]), dim=2)
            values = torch.cat((vs, v[:, :, past]), dim=2)
            attended.append(attend(q[:, :, end - span : end], keys, values))
        s = block.finish(s, attend(rotate(qs, prefill), rotate(ks, prefill), vs), mod0, text_kv)
        return block.finish(x, torch.cat(attended, dim=1), mod, text_kv), s


def _fp32(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = F.linear(x, layer.weight.float(), layer.bias.float()) if isinstance(layer, nn.Linear) else layer(x)
    return x
