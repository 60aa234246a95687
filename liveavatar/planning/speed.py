"""Speed model: seconds of a denoise step, a decode and a start, predicted for GPUs and measured for the CPU.

The CPU's speed depends on caches, instructions and neighbours more than on operations, so a few blocks of a
model of the same shape with constant weights are run once and the pace is stored.
"""

import hashlib
import json
import logging
import platform
import statistics
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass

import numpy as np
import torch

from liveavatar import paths
from liveavatar.checkpoints.load import LoadedModel, build_part
from liveavatar.config import ModelConfig
from liveavatar.engine.device import pick_dtype
from liveavatar.engine.engine import Engine
from liveavatar.engine.int8_decoder import use_bytes
from liveavatar.engine.job import StreamJob, TensorFeatures
from liveavatar.engine.plain import PlainBackend
from liveavatar.engine.prompt_encoder import prompt_encoder
from liveavatar.engine.settings import RenderSettings
from liveavatar.files import recall, remember
from liveavatar.hardware import Rates
from liveavatar.planning.costs import BF16, FP8, DiTCosts, VAECosts, dit_costs, vae_costs
from liveavatar.timing import BLOCK_FRAMES

log = logging.getLogger(__name__)

TERA = 1e12
LAYER_SECONDS = 82e-6  # of one recorded layer, however small; `mini` on an H200 (`bench.gpu --only mini`)
OWN_SHARE = 0.11  # of the convolutions' rate that a decoder without kernels of `liveavatar.fast` reaches; as above
HOST_SECONDS = 8.4e-3  # of a block that the host of a GPU works; as above
# Of the link to the host each way, while copies go both ways: data/benchmarks/gpu_h200_offload_2026-11-30.md.
BOTH_WAYS = 0.87
OVERHEAD = 1.01  # of a step over the sum of its parts: gaps between kernels
ENCODE_SHARE = (
    0.48  # of the decoder's rate that a start reaches, which is the encoding of the still picture first of all
)
_WARM_BLOCKS, _TIMED_BLOCKS = 1, 3
_REMEMBERED_SECONDS = 24 * 3600  # a machine's neighbours change


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """Seconds that the parts of a job take."""

    step: float  # one denoise step of one block, ring full
    decode: float  # one block
    start: float  # picture encoded, sinks computed
    first: float | None  # the first block, steps and decoding; None: as long as any other
    overlap: bool  # a block is decoded while the next one is denoised
    pose: float = 0.0  # one block of a drawn skeleton encoded
    host: float = 0.0  # what the host of a GPU does for a block beside it

    def block(self, steps: int) -> float:
        """Return the time of a block of so many steps, and of decoding one; a GPU that computes both gains nothing.

        Nor does one that waits for its host, as was measured: layers that decoding delays let the link wait.
        """
        return max(steps * self.step + self.decode, self.host)

    def decode_layers(self, num_layers: int) -> float:
        """Return the time of decoding a block in layers of a denoise step, for a transformer of `num_layers`."""
        return num_layers * self.decode / self.step


def gpu_speeds(
    dit: DiTCosts, vae: VAECosts, rates: Rates, num_layers: int, fp8: bool, offload: bool, rings_on_host: bool = False
) -> Speeds:
    """Predict the times on a GPU.

    Args:
        dit, vae: costs at the job's size.
        rates: practical speed of the GPU.
        num_layers: of the transformer.
        fp8: linears in fp8.
        offload: weights come from host memory at every step, while the layer before computes.
        rings_on_host: so do keys and values, but for the slots that the block writes; those go back beside them,
            which slows both.
    """
    linear = dit.linear_flop / TERA / (rates.fp8 if fp8 else rates.bf16)
    attention = dit.attention_flop / TERA / rates.self_attention(dit.ring_dtype)
    attention += dit.other_flop / TERA / rates.attention
    compute = OVERHEAD * (linear + attention + dit.elementwise_bytes / TERA / rates.bandwidth)
    compute = max(compute, num_layers * LAYER_SECONDS)
    transfer = dit.step_weights * (FP8 if fp8 else BF16) / TERA / rates.host_link if offload else 0.0
    weights = transfer
    if rings_on_host:
        link = TERA * rates.host_link
        written = dit.written_share * dit.ring_bytes
        transfer += ((dit.ring_bytes - written) + (1 / BOTH_WAYS - 1) * written) / link
        # A ring is read and written once more on the GPU, and the sinks are laid out in front of it.
        compute += 2 * (dit.ring_bytes + dit.sink_bytes) / TERA / rates.bandwidth
    prefill = OVERHEAD * linear * dit.sink_share
    decode = vae.decode_flop / TERA / rates.conv
    if not vae.has_fast_form:
        decode /= OWN_SHARE
    return Speeds(
        step=max(compute, transfer),
        decode=decode,
        first=None,
        start=max(prefill, weights) + vae.encode_flop / TERA / (ENCODE_SHARE * rates.conv),
        overlap=False,
        pose=vae.pose_flop / TERA / (ENCODE_SHARE * rates.conv),
        host=HOST_SECONDS,
    )


def decode_layers(
    config: ModelConfig, rates: Rates, fp8: bool, width: int, height: int, kv_cache_dtype: str = "bf16"
) -> float:
    """Predict the time of decoding a block on a GPU, in layers of a denoise step; layers are spread over a group by it.

    Args:
        config: of the model.
        rates: practical speed of the GPU.
        fp8: linears in fp8.
        width, height: pixels.
        kv_cache_dtype: of keys and values; "auto" counts as bf16.
    """
    num_layers, dtype = config.dit.num_layers, "bf16" if kv_cache_dtype == "auto" else kv_cache_dtype
    dit = dit_costs(config.dit, width, height, config.vae.spatial_stride, dtype)
    vae = vae_costs(config.vae, config.dit.motion_latents, width, height)
    return gpu_speeds(dit, vae, rates, num_layers, fp8, offload=False).decode_layers(num_layers)


def cpu_speeds(config: ModelConfig, width: int, height: int, sample_steps: int) -> Speeds:
    """Measure this machine's CPU with constant weights; the result is kept for a day below `paths.speeds()`.

    A few blocks are really rendered, so the model must fit this machine.
    """
    key = {
        "machine": [platform.processor() or platform.machine(), _cpu_name(), torch.get_num_threads()],
        "torch": torch.__version__,
        "model": [asdict(config.dit), asdict(config.vae)],
        "job": [width, height, sample_steps],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = paths.speeds() / f"{digest}.json"
    with suppress(OSError, TypeError):
        if time.time() - path.stat().st_mtime < _REMEMBERED_SECONDS and (known := recall(path, digest)):
            return Speeds(**known["speeds"])
    speeds = measure_cpu(config, width, height, sample_steps)
    remember(path, digest, {"speeds": asdict(speeds)})
    return speeds


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "")
    except OSError:
        return ""


def measure_cpu(config: ModelConfig, width: int, height: int, sample_steps: int) -> Speeds:
    """Measure this machine's CPU with constant weights, at a video size in pixels; takes seconds."""
    device = torch.device("cpu")
    dtype = pick_dtype("auto", device)
    log.info("measuring the speed of %s on this CPU, once", config.name)
    parts = {part: build_part(config, part).to_empty(device=device) for part in ("dit", "vae", "text")}
    for network in parts.values():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = torch.full_like(tensor, 0.01)
        network.to(dtype).eval().requires_grad_(False)
    model = LoadedModel(config=config, **parts)
    use_bytes(model, "auto", device)
    engine = Engine(PlainBackend(model, device), prompt_encoder(model, None, device))
    clip = 4 * BLOCK_FRAMES
    num_blocks = 2 * config.dit.window_latents + _WARM_BLOCKS + _TIMED_BLOCKS
    features = torch.zeros(config.dit.audio_layers, config.dit.audio_dim, num_blocks * BLOCK_FRAMES)
    job = StreamJob(
        image=np.full((height, width, 3), 128, dtype=np.uint8),
        settings=RenderSettings(prompt="", sample_steps=sample_steps, infer_frames=clip),
        features=TensorFeatures(features),
        num_frames=num_blocks * BLOCK_FRAMES,
    )
    engine.open(job)  # first use of kernels and memory
    began = time.perf_counter()
    stream = engine.open(job)
    start = time.perf_counter() - began
    with closing(stream.blocks()) as blocks:
        next(blocks)
    first = time.perf_counter() - began - start
    # As if rings were full: what the blocks before would have written does not change the time.
    stream.position = num_blocks - _WARM_BLOCKS - _TIMED_BLOCKS
    marks: list[float] = []
    steps: list[float] = []
    decodes: list[float] = []
    for block in stream.blocks():
        marks.append(time.perf_counter())
        steps += block.step_s
        decodes.append(block.decode_s)
    # The fastest of few: what disturbs a measurement only ever slows it.
    pace = float(np.diff(marks)[-_TIMED_BLOCKS:].min())
    step, decode = statistics.median(steps), min(decodes)
    # The pace holds whatever overlap there is: the step is what remains of it.
    overlap = pace < sample_steps * step + decode
    step = pace / sample_steps if overlap else step
    return Speeds(step=step, decode=decode, start=start, first=first, overlap=overlap)
