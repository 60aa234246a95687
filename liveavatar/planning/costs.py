"""Cost model: bytes and floating-point operations of a job, from the dimensions of its networks.

Nothing is measured here and no memory is taken: networks are built on the meta device to count weights, and the
autoencoder runs there to count operations and the bytes of its stream.

S tokens of one latent (h/2 * w/2), L tokens of one block (3 S), D width. Memory is in bytes, operations are in FLOP
(a multiply-add is two).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from liveavatar.audio.encoders import encoder_kind
from liveavatar.checkpoints.load import build_part
from liveavatar.config import DiTConfig, ModelConfig, VAEConfig
from liveavatar.model.meta import without_memory
from liveavatar.model.motion import motion_tokens
from liveavatar.model.vae import VideoVAE, build_vae
from liveavatar.model.vae_wan import WanVAE, still_runs
from liveavatar.timing import BLOCK_FRAMES, BLOCK_LATENTS, LATENT_FRAMES, SAMPLE_RATE

FP32, BF16, FP8 = 4, 2, 1  # bytes
STAGED_RINGS, STAGED_BLOCKS = 3, 2  # on the GPU, of rings in host memory: see `liveavatar.fast.host_rings.Stage`

# Linears that stay in bf16 when the rest is fp8: too small, or too sensitive.
_NOT_FP8 = ("text_embedding", "time_embedding", "time_projection", "head.head", "encoder.final_linear")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTCosts:
    """Costs of the transformer at one video size."""

    linear_weights: int  # weights of Linears that may be fp8
    other_weights: int
    layer_weights: int  # of the largest layer, that a denoise step needs: the unit of offloading
    step_weights: int  # of all layers, that a denoise step needs
    text_weights: int  # of all layers, that a job needs once, for the keys and values of its text
    tokens: int  # L
    ring_bytes: int  # keys and values of one denoise step, without sinks
    sink_bytes: int  # keys and values of the sinks, once, not rotated
    ring_sink_bytes: int  # rotated copy of the sinks in front of one step's ring
    workspace_bytes: int  # of bf16 copies: an 8-bit ring is converted for attention, one layer at a time
    text_bytes: int  # text keys and values of all layers
    activation_bytes: int  # peak of temporaries: in one layer, or where a noise level is projected
    linear_flop: float  # of one step of one block
    attention_flop: float  # self-attention with a full ring
    other_flop: float  # text and audio cross-attention
    elementwise_bytes: float  # traffic of norms, modulation, rotation of one step
    ring_dtype: str  # it says which self-attention reads the rings
    sink_share: float  # cost of the prefill over that of a step's linears
    written_share: float  # of a ring's slots that a block writes

    def weight_bytes(self, fp8: bool, share: float = 1.0) -> int:
        """Return the bytes of the weights, with a share of the layers."""
        return round(share * self.linear_weights * (FP8 if fp8 else BF16)) + self.other_weights * BF16

    @property
    def stage_share(self) -> float:
        """Return what a GPU holds of rings in host memory, in rings of one layer."""
        return STAGED_RINGS + STAGED_BLOCKS * self.written_share


@dataclass(frozen=True, kw_only=True, slots=True)
class VAECosts:
    """Costs of the autoencoder at one video size."""

    weight_bytes: int
    state_bytes: int  # of a decoder stream
    peak_bytes: int  # of temporaries while a block is decoded
    decode_flop: float  # one block
    has_fast_form: bool  # a GPU decodes with kernels of `liveavatar.fast`
    encode_flop: float  # the still picture's reference and motion latents
    pose_flop: float  # of encoding a block of a drawn skeleton
    pose_bytes: int  # of that encoder's stream and its temporaries


def dit_costs(cfg: DiTConfig, width: int, height: int, stride: int, kv_cache_dtype: str = "bf16") -> DiTCosts:
    """Compute the costs of the transformer for a video of width x height pixels, `stride` pixels a latent cell.

    Args:
        kv_cache_dtype: of the rings: "bf16", "fp8", "int8" or "e4m3".
    """
    linear, other = _weights(cfg)
    D, Y, S = cfg.dim, cfg.num_layers, (height // stride // 2) * (width // stride // 2)
    L = BLOCK_LATENTS * S
    window, sinks = cfg.window_latents * S, S + motion_tokens(height // stride, width // stride)
    injectors = len(cfg.audio_inject_layers)
    # Keys and values of a token in a ring, fp32 scales of every head included: fp8 has them for both, int8 for keys.
    slot = {
        "bf16": 2 * D * BF16,
        "fp8": 2 * (D * FP8 + cfg.num_heads * FP32),
        "int8": 2 * D + cfg.num_heads * FP32,
        "e4m3": 2 * D * FP8,
    }
    in_ring, wide = Y * slot[kv_cache_dtype], 2 * D * BF16
    converts = kv_cache_dtype == "fp8"  # attention is in bf16: a layer's ring is converted before, its sinks as well
    # Weights a block token meets: q k v o, cross q o, the feed-forward; text keys and values are computed once.
    layer, injector = 6 * D * D + 2 * D * cfg.ffn_dim, 2 * D * D
    per_token = Y * layer + injectors * injector
    return DiTCosts(
        linear_weights=linear,
        other_weights=other,
        layer_weights=layer + bool(injectors) * injector,
        step_weights=per_token,
        text_weights=Y * 2 * D * D,
        tokens=L,
        ring_bytes=in_ring * window,
        sink_bytes=Y * 2 * sinks * D * BF16,
        ring_sink_bytes=0 if converts else in_ring * sinks,
        workspace_bytes=(window + sinks) * wide if converts else 0,
        text_bytes=Y * 2 * cfg.text_len * D * BF16,
        activation_bytes=max(
            # fp32 residual and modulated copies, q k v and their fp32 rotation, and the feed-forward's two halves.
            L * (D * (4 * FP32 + 4 * BF16 + 3 * FP32) + 2 * cfg.ffn_dim * BF16),
            # The weights of the projection of noise levels to modulations, once in fp32.
            6 * D * D * FP32,
        ),
        linear_flop=2.0 * L * per_token,
        attention_flop=4.0 * L * (window + sinks) * D * Y,
        other_flop=4.0 * L * D * (Y * cfg.text_len + injectors * (cfg.num_audio_token + 1)),
        # About 20 reads or writes of the residual's width a layer by the fused kernels, half of them fp32.
        elementwise_bytes=20.0 * 3 * L * D * Y + converts * (window * (in_ring + Y * wide)),
        ring_dtype=kv_cache_dtype,
        sink_share=sinks / L,
        written_share=L / window,
    )


@lru_cache(maxsize=8)
def _weights(cfg: DiTConfig) -> tuple[int, int]:
    """Count (weights of Linears that may be fp8, all other weights)."""
    from liveavatar.model.dit import CausalDiT

    with without_memory():
        dit = CausalDiT(cfg)
    linear = sum(
        module.weight.numel()
        for name, module in dit.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(part in name for part in _NOT_FP8)
    )
    total = sum(p.numel() for p in dit.parameters())
    return linear, total - linear


_COUNTED = ((64, 64), (128, 64))  # pixels, quick to count; the second size has twice the pixels of the first


def vae_costs(cfg: VAEConfig, motion_latents: int, width: int, height: int) -> VAECosts:
    """Compute the costs of the autoencoder for width x height pixels, with `motion_latents` latents of the picture.

    They are counted at two sizes. The bytes of a stream grow with the pixels, operations also with their square, where
    the innermost level attends; so two sizes tell all.
    """
    one, two = (_counted(cfg, motion_latents, *size) for size in _COUNTED)
    x = width * height / (_COUNTED[0][0] * _COUNTED[0][1])

    def grown(first: float, second: float) -> float:
        return first * x + (second - 2 * first) / 2 * x * (x - 1)

    return VAECosts(
        weight_bytes=one.weights * BF16,
        state_bytes=round(one.state + (two.state - one.state) * (x - 1)) * BF16,
        peak_bytes=_decoding_bytes(cfg, width * height),
        decode_flop=grown(one.decode_flop, two.decode_flop),
        has_fast_form=cfg.has_fast_form,
        encode_flop=grown(one.encode_flop, two.encode_flop),
        pose_flop=grown(one.pose_flop, two.pose_flop),
        pose_bytes=(
            round(one.pose_state + (two.pose_state - one.pose_state) * (x - 1)) * BF16
            + LATENT_FRAMES * width * height * cfg.encoder_widths[0] * 6 * BF16
        ),
    )


_CHANNELS = 64  # that the fast decoder's convolutions read a multiple of: `liveavatar.fast.vae.channel_multiple`
# Bytes a pixel that convolutions take for themselves: 1117 to 1128 at three sizes, what an H200 held at most less what
# it held and the tensors (data/benchmarks/gpu_h200_4ranks_circular_2026-11-30.md, `parts_gib` of rank 3 in its json).
_CONVOLUTION_BYTES = 1117


def _decoding_bytes(cfg: VAEConfig, pixels: int) -> int:
    """Count the bytes of temporaries while a block is decoded, which are most in a residual block of the last level."""
    channels = cfg.decoder_widths[-1]
    if not cfg.has_fast_form:
        # Input, normalised and padded copies, output of its convolutions.
        return BLOCK_FRAMES * pixels * (channels * 6 // cfg.last_level_stride**2) * BF16
    # Its input, the output of each convolution, and what the second one reads: the same with two frames before.
    padded = -(-channels // _CHANNELS) * _CHANNELS * (BLOCK_FRAMES + 2)
    return pixels * ((3 * channels * BLOCK_FRAMES + padded) * BF16 + _CONVOLUTION_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Counts:
    """Numbers of the autoencoder at one size: weights, numbers in a decoder's state, operations."""

    weights: int
    state: int
    decode_flop: int
    encode_flop: int
    pose_state: int  # of the encoder's stream
    pose_flop: int  # of encoding a block of video


@lru_cache(maxsize=16)
def _counted(cfg: VAEConfig, motion_latents: int, width: int, height: int) -> _Counts:
    """Run the autoencoder on the meta device and count."""
    h, w = height // cfg.spatial_stride, width // cfg.spatial_stride
    with without_memory():
        network = build_vae(cfg)
        vae = cast(VideoVAE, network)
        latents = torch.empty(1, cfg.z_dim, BLOCK_LATENTS, h, w)
        video = torch.empty(1, 3, BLOCK_FRAMES, height, width)
        state = vae.decoder_state(1, h, w)
        vae.set_reference(video[:, :, :1], latents[:, :, :1], state)
        vae.decode_stream(latents[:, :, :1], state)
        with FlopCounterMode(display=False) as decoding:
            vae.decode_stream(latents, state)
        pose_state = pose_flop = 0
        if isinstance(network, WanVAE):
            encode_flop = _wan_still_flop(network, motion_latents, video)
            stream = network.encoder_state(1, h, w)
            network.encode_stream(video[:, :, :1], stream)
            with FlopCounterMode(display=False) as posing:
                network.encode_stream(video, stream)
            pose_flop, pose_state = posing.get_total_flops(), sum(t.numel() for t in stream.tensors().values())
        else:
            with FlopCounterMode(display=False) as encoding:
                vae.encode_still(video[:, :, :1], motion_latents)
            encode_flop = encoding.get_total_flops()
    return _Counts(
        weights=sum(p.numel() for p in network.parameters()),
        state=sum(t.numel() for t in state.tensors().values()),
        decode_flop=decoding.get_total_flops(),
        encode_flop=encode_flop,
        pose_state=pose_state,
        pose_flop=pose_flop,
    )


def _wan_still_flop(vae: WanVAE, num_latents: int, video: torch.Tensor) -> int:
    """Count the operations of `WanVAE.encode_still`, whose levels are not run for all latents."""
    state, flop = vae.encoder_state(1, *(side // vae.config.spatial_stride for side in video.shape[-2:])), 0
    for x in (video[:, :, :1], video[:, :, : vae.latent_frames]):
        first = state.position == 0
        for level, runs in enumerate(still_runs(vae.config, num_latents)):
            with FlopCounterMode(display=False) as counter:
                x = vae.encoder.level(level, x, state)
            flop += counter.get_total_flops() * (1 if first else runs - 1)
        state.position += 1
    return flop


def text_bytes(config: ModelConfig) -> int:
    """Return the bytes of the prompt encoder's weights, in bf16."""
    if not config.text.resident:
        return _UMT5_WEIGHTS * BF16
    return sum(p.numel() for p in build_part(config, "text").parameters()) * BF16


def speech_bytes(config: ModelConfig) -> int:
    """Return the bytes of the speech encoder's weights as loaded."""
    return encoder_kind(config.speech).weight_bytes


def live_speech_bytes(config: ModelConfig) -> int:
    """Return the bytes that the speech encoder takes of a GPU while sound arrives: weights, and one window's states."""
    if not encoder_kind(config.speech).on_gpu:
        return 0
    states = config.speech.window_seconds * SAMPLE_RATE / _FIRST_STRIDE * _FIRST_CHANNELS
    return speech_bytes(config) + round(_STATE_COPIES * states * FP32)


_FIRST_STRIDE, _FIRST_CHANNELS = 5, 512  # of wav2vec2's first convolution, whose output is the largest
_STATE_COPIES = 3  # convolution, norm and activation
_UMT5_WEIGHTS = 5_680_910_336  # encoder of umT5-xxl
