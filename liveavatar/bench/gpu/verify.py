"""Does every fast path give what the plain path gives? On a few layers of the true width, against fp32."""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from liveavatar.bench.gpu.build import (
    ATTENTION8,
    BF16,
    BF16_ATTENTION8,
    BF16_RINGS8,
    E4M3,
    FP8,
    FP8_ALL,
    OFFLOADED,
    BenchEngine,
    Mode,
    bench_job,
    fast_engine,
    plain_engine,
    random_vae,
    release,
)
from liveavatar.config import ModelConfig
from liveavatar.engine.engine import Engine
from liveavatar.engine.plain import image_tensor
from liveavatar.fast.flash3 import flash3
from liveavatar.fast.vae import FastDecoder, FastEncoder
from liveavatar.timing import LATENT_FRAMES

LAYERS, INJECTORS = 4, (0, 3)
BLOCKS = 6  # the ring is full from the fourth on; the reference changes at the fifth
# Relative distance of latents to fp32 after 6 blocks of 4 steps. Sampling adds up: the plain bf16 path is measured
# beside it, and the fast bf16 path may be no further off than that by a half.
LIMITS = {
    BF16.name: 1.5, BF16_RINGS8.name: 4.0, BF16_ATTENTION8.name: 8.0, FP8.name: 20.0, FP8_ALL.name: 20.0,
    ATTENTION8.name: 20.0, E4M3.name: 20.0, OFFLOADED.name: 20.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyCheck:
    """One comparison."""

    name: str
    distance: float  # relative, in the 2-norm
    limit: float
    passed: bool


def _latents(engine: Engine | BenchEngine, config: ModelConfig, size: tuple[int, int], steps: int = 4) -> Tensor:
    stream = engine.open(bench_job(config, size, BLOCKS, steps))
    return torch.stack([b.latents for b in stream.blocks()])


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm())


def verify(config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> list[dict]:
    """Compare plain and fast paths of `config`, cut to a few layers, at (width, height)."""
    cut = replace(config, dit=replace(config.dit, num_layers=LAYERS, audio_inject_layers=INJECTORS))
    checks: list[VerifyCheck] = []

    def add(name: str, distance: float, limit: float) -> None:
        checks.append(VerifyCheck(name=name, distance=distance, limit=limit, passed=distance <= limit))

    exact = _latents(plain_engine(cut, device, torch.float32), cut, size)
    release()
    own = _distance(_latents(plain_engine(cut, device, dtype), cut, size), exact)
    floor = max(own, 1e-5)  # fp32 on a CPU: both are rounding
    add(f"plain {_short(dtype)} against fp32", own, 0.1)
    made: dict[str, Tensor] = {}
    modes = [BF16, BF16_RINGS8, BF16_ATTENTION8, FP8, FP8_ALL, ATTENTION8, OFFLOADED]
    if device.type == "cpu" or flash3(device) is not None:
        modes.append(E4M3)
    for mode in modes:
        release()
        made[mode.name] = _latents(fast_engine(cut, mode, device, dtype), cut, size)
        add(f"fast {mode.name} against fp32", _distance(made[mode.name], exact), _limit(mode, floor, dtype))
    add("offloaded against resident", _distance(made[OFFLOADED.name], made[FP8_ALL.name]), 1e-6)
    release()
    add("recorded graphs against launched kernels", _graphs(cut, size, device, dtype, made[FP8.name]), 5e-3)
    release()
    add("fast decoder against fp32", *_decoder(config, size, device, dtype))
    release()
    add("fast encoder against fp32", *_encoder(config, size, device, dtype))
    release()
    add("still picture against its video", _still(config, size, device, dtype), 1e-6)
    release()
    return [asdict(c) for c in checks]


def _limit(mode: Mode, floor: float, dtype: torch.dtype) -> float:
    if dtype == torch.float32:
        return {BF16.name: 1e-3, BF16_RINGS8.name: 0.02, BF16_ATTENTION8.name: 0.02}.get(mode.name, 0.2)
    return LIMITS[mode.name] * floor


def _graphs(
    config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype, recorded: Tensor
) -> float:
    engine = fast_engine(config, FP8, device, dtype)
    stream = engine.open(bench_job(config, size, BLOCKS))
    assert engine.backend.runners.current is not None
    engine.backend.runners.current.forget_graphs()
    return _distance(torch.stack([b.latents for b in stream.blocks()]), recorded)


def _decoder(
    config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Measure (distance of the fast decoder to fp32, limit: the plain decoder's own distance and a half)."""
    h, w = size[1] // config.vae.spatial_stride, size[0] // config.vae.spatial_stride
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, config.vae.z_dim, 7, h, w, generator=generator).to(device)
    exact = random_vae(config, device, torch.float32).decode(latents)  # type: ignore[operator]
    vae = random_vae(config, device, dtype)
    plain = _distance(vae.decode(latents.to(dtype)), exact)  # type: ignore[operator]
    fast, state = FastDecoder(vae), vae.decoder_state(1, h, w)  # type: ignore[arg-type,operator]
    parts = [fast.decode_stream(c, state) for c in latents.to(dtype).split((1, 3, 3), dim=2)]
    return _distance(torch.cat(parts, dim=2), exact), 1.5 * max(plain, 1e-5)


def _encoder(
    config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Measure (distance of the fast encoder to fp32, limit: the plain encoder's own distance and a half)."""
    picture, latents = image_tensor(bench_job(config, size, 1).image).to(device), config.dit.motion_latents
    exact = random_vae(config, device, torch.float32).encode_still(picture, latents)  # type: ignore[operator]
    vae = random_vae(config, device, dtype)
    plain = _distance(vae.encode_still(picture.to(dtype), latents), exact)  # type: ignore[operator]
    fast = FastEncoder(vae).encode_still(picture.to(dtype), latents)  # type: ignore[arg-type]
    return _distance(fast, exact), 1.5 * max(plain, 1e-5)


def _still(config: ModelConfig, size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> float:
    vae, latents = random_vae(config, device, dtype), config.dit.motion_latents
    picture = image_tensor(bench_job(config, size, 1).image).to(device, dtype)
    video = picture.expand(-1, -1, 1 + LATENT_FRAMES * (latents - 1), -1, -1)
    return _distance(vae.encode_still(picture, latents), vae.encode(video))  # type: ignore[operator]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
