"""Engines with random weights of a config's shapes, made on the device without a host copy.

Shapes: L hidden states, C width of a speech feature.
"""

import gc
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from liveavatar.checkpoints.load import LoadedModel
from liveavatar.config import LIVE_AVATAR_14B, DiTConfig, ModelConfig
from liveavatar.engine.engine import EncodePrompt, Engine, PlacementFactory
from liveavatar.engine.job import StreamJob, TensorFeatures
from liveavatar.engine.plain import PlainBackend
from liveavatar.engine.settings import RenderSettings
from liveavatar.engine.stream import Stream
from liveavatar.fast import accelerate
from liveavatar.fast.attention import FastAttention
from liveavatar.fast.backend import FastBackend
from liveavatar.model.dit import CausalDiT
from liveavatar.model.meta import without_memory
from liveavatar.model.vae import build_vae
from liveavatar.timing import BLOCK_FRAMES

_GAIN = 1.4  # of random weights over 1/sqrt(width): activations stay of order one
_PROMPT_ROWS = 60

DRY = replace(
    LIVE_AVATAR_14B,
    name="dry-run",
    dit=replace(
        LIVE_AVATAR_14B.dit, dim=64, num_heads=2, num_layers=4, ffn_dim=96, text_dim=16, text_len=8, audio_dim=8,
        audio_layers=3, audio_inject_layers=(0, 3), freq_dim=32,
    ),
    vae=replace(
        LIVE_AVATAR_14B.vae, encoder_widths=(4, 8, 8, 8), decoder_widths=(8, 8, 8, 4), num_res_blocks=1,
        prime_latents=2,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """Precision and placement of the transformer's weights and rings."""

    name: str
    fp8: bool = False
    kv_cache_dtype: str = "bf16"
    offload: bool = False
    rings_on_host: bool = False
    flash3: bool = True  # FlashAttention-3 where it is there


BF16 = Mode(name="bf16")
FP8 = Mode(name="fp8", fp8=True)
FP8_ALL = Mode(name="fp8 + fp8 rings", fp8=True, kv_cache_dtype="fp8")
BF16_RINGS8 = Mode(name="bf16 + fp8 rings", kv_cache_dtype="fp8")
FP8_PYTORCH = Mode(name="fp8 + PyTorch's attention", fp8=True, flash3=False)
E4M3 = Mode(name="fp8 + e4m3 attention", fp8=True, kv_cache_dtype="e4m3")
ATTENTION8 = Mode(name="fp8 + 8-bit attention", fp8=True, kv_cache_dtype="int8")
BF16_ATTENTION8 = Mode(name="bf16 + 8-bit attention", kv_cache_dtype="int8")
OFFLOADED = Mode(name="fp8 + fp8 rings, offloaded", fp8=True, kv_cache_dtype="fp8", offload=True)


def random_dit(cfg: DiTConfig, device: torch.device, dtype: torch.dtype, alike: bool = False) -> CausalDiT:
    """Build the transformer of a config with seeded random weights.

    Args:
        cfg: its shapes.
        device: where its weights are made.
        dtype: theirs.
        alike: all layers have the linear weights of one, in the same memory; `accelerate` then packs a copy for each
            layer, and never are there two forms of more than one.
    """
    with without_memory():
        dit = CausalDiT(cfg).to(dtype)
    if alike:
        for layers in (dit.blocks, dit.audio_injector.injector, dit.audio_injector.injector_adain_layers):
            _share_linears(layers, device)
    dit._apply(lambda t: torch.empty_like(t, device=device) if t.is_meta else t)
    generator = torch.Generator(device).manual_seed(0)
    for name, p in dit.named_parameters():
        if name.endswith(("norm_q.weight", "norm_k.weight", "norm3.weight")):
            p.data.fill_(1)
        else:
            p.data.normal_(0, _GAIN * cfg.dim**-0.5, generator=generator)
    return dit.eval().requires_grad_(False)


def _share_linears(layers: nn.ModuleList, device: torch.device) -> None:
    """Give all layers the matrices of the first one, each as a parameter of its own."""
    first = layers[0].to_empty(device=device)
    for layer in layers[1:]:
        for name, part in layer.named_modules():
            if isinstance(part, nn.Linear):
                part.weight = nn.Parameter(first.get_parameter(f"{name}.weight").data)


def random_vae(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Build the autoencoder of a config with seeded random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        return build_vae(config.vae).to(dtype).eval().requires_grad_(False)


def random_prompt(config: ModelConfig, device: torch.device) -> EncodePrompt:
    """Make a prompt encoder that draws its rows at random, seeded by the prompt's length."""

    def encode(prompt: str) -> Tensor:
        rows = min(_PROMPT_ROWS, config.dit.text_len)
        generator = torch.Generator().manual_seed(len(prompt))
        return torch.randn(1, rows, config.dit.text_dim, generator=generator).to(device)

    return encode


def plain_engine(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Engine:
    """Make the plain engine with random weights."""
    parts = {"dit": random_dit(config.dit, device, dtype), "vae": random_vae(config, device, dtype)}
    backend = PlainBackend(LoadedModel(config=config, **parts), device)
    return Engine(backend, random_prompt(config, device))


@dataclass(slots=True)
class BenchEngine:
    """A fast engine with random weights that opens jobs in the precisions of a mode."""

    engine: Engine
    backend: FastBackend
    mode: Mode

    @property
    def config(self) -> ModelConfig:
        """Config of the model."""
        return self.backend.config

    def open(self, job: StreamJob) -> Stream:
        """Open a job in the mode's precisions; a job that names a precision of keys and values keeps it."""
        settings = replace(job.settings, fp8=self.mode.fp8)
        if settings.kv_cache_dtype == "auto":
            settings = replace(settings, kv_cache_dtype=self.mode.kv_cache_dtype)
        return self.engine.open(replace(job, settings=settings, rings_on_host=self.mode.rings_on_host))

    def forget_sizes(self) -> None:
        """Free buffers and graphs of past jobs."""
        self.engine.forget_sizes()


def fast_engine(config: ModelConfig, mode: Mode, device: torch.device, dtype: torch.dtype) -> BenchEngine:
    """Make the fast engine with the same random weights."""
    attention = FastAttention() if mode.flash3 else FastAttention(load_flash3=lambda _: None)
    plain = random_dit(config.dit, device, dtype)
    dit = accelerate(plain, device=device, fp8=mode.fp8, offload=mode.offload, attention=attention)
    model = LoadedModel(config=config, dit=dit, vae=random_vae(config, device, dtype))
    return bench_engine(FastBackend(model, device, mode.fp8), mode)


def bench_engine(backend: FastBackend, mode: Mode, placement: PlacementFactory | None = None) -> BenchEngine:
    """Make a fast engine around random weights."""
    return BenchEngine(Engine(backend, random_prompt(backend.config, backend.device), placement), backend, mode)


def bench_job(config: ModelConfig, size: tuple[int, int], blocks: int, steps: int = 4) -> StreamJob:
    """Make a job of `blocks` blocks at (width, height): a grey picture, noise for features."""
    cfg = config.dit
    features = torch.randn(
        cfg.audio_layers, cfg.audio_dim, BLOCK_FRAMES * 8, generator=torch.Generator().manual_seed(0)
    )
    settings = RenderSettings(prompt="a calm person speaks to the camera in soft light", sample_steps=steps)
    return StreamJob(
        image=np.full((size[1], size[0], 3), 128, np.uint8),
        settings=settings,
        features=TensorFeatures(features.repeat(1, 1, -(-blocks // 8))),
        num_frames=BLOCK_FRAMES * blocks,
    )


def release() -> None:
    """Give back the memory of what is not referenced any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
