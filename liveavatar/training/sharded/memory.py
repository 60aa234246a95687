"""Memory of a rank and work of an update of a sharded distillation, computed from the dimensions; nothing is built.

Memory is counted in bytes, work in FLOP (a multiply-add is two). D width, F feed-forward width, L noisy tokens of a
window, S tokens of a latent.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from liveavatar.config import DiTConfig, ModelConfig
from liveavatar.hardware import GB, Gpu
from liveavatar.model.dit import CausalDiT
from liveavatar.model.meta import without_memory
from liveavatar.model.motion import motion_tokens
from liveavatar.planning.costs import BF16, FP32, dit_costs
from liveavatar.training.matching import FAKE_PER_STUDENT, MAIN_STEPS, OTHER_SHARE, OTHER_STEPS, SUBSTEPS
from liveavatar.training.sharded.adapters import ADAPTED, SETS, AdapterShape
from liveavatar.training.sharded.windows import WindowSize

# Kept of one layer while it is computed again for its gradients, in bytes a token for each of D: half of it fp32
# (inputs and products of norms), half bf16 (queries, keys, values, inputs of linears), 13 by the audio injector.
KEPT_BYTES = 54
PASSING_BYTES = 5 * FP32  # gradients beside them, in the step that needs most: of the residual and of a rotation
HIDDEN = 4  # bf16 tensors of width F: before and after the activation, and their gradients
GATHERED = 3  # layers gathered at a time: one computes, one arrives, one is copied out
TENSORS_GB = 0.5  # windows, embeddings, noise levels and rotations
HOST_GB = 3.5  # of a rank: Python, torch, CUDA and NCCL; files are mapped
HOST_COPIES = (
    1.35  # of a rank's adapters with all that belongs to them, while a checkpoint is written; H200, 2026-11-30
)
BACKWARDS = 2  # of a forward's work: computed again, and the gradients of activations; frozen weights need none


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardedRun:
    """Dimensions of a sharded distillation."""

    model: ModelConfig
    size: WindowSize
    batch: int
    adapters: AdapterShape
    world: int
    guidance: bool  # of the teacher: it predicts twice
    anchor: bool  # the trajectory loss is added
    causal_scores: bool  # teacher and fake score attend as in a stream, not to the whole window

    @property
    def dit(self) -> DiTConfig:
        """Dimensions of the transformer."""
        return self.model.dit

    @property
    def tokens(self) -> tuple[int, int]:
        """Numbers of noisy and of sink tokens of a window."""
        per_latent = (self.size.h // 2) * (self.size.w // 2)
        return self.size.num_latents * per_latent, per_latent + motion_tokens(self.size.h, self.size.w)


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """Numbers of weights."""

    layers: int  # of all layers with their audio injectors
    largest_layer: int
    outside: int
    adapters: int  # of one set


@lru_cache(maxsize=8)
def count_weights(cfg: DiTConfig, shape: AdapterShape) -> WeightCounts:
    """Count the weights of a transformer and of a set of adapters."""
    with without_memory():
        dit = CausalDiT(cfg)
    inside = {name: p.numel() for name, p in dit.named_parameters() if name.startswith(("blocks.", "audio_injector."))}
    sizes = [sum(p.numel() for p in block.parameters()) for block in dit.blocks]
    for layer, i in dit.injector_of.items():
        parts = (dit.audio_injector.injector[i], dit.audio_injector.injector_adain_layers[i])
        sizes[layer] += sum(p.numel() for part in parts for p in part.parameters())
    adapted = (m for name, m in dit.named_modules() if isinstance(m, nn.Linear) and ADAPTED.fullmatch(name))
    return WeightCounts(
        layers=sum(inside.values()),
        largest_layer=max(sizes),
        outside=sum(p.numel() for p in dit.parameters()) - sum(inside.values()),
        adapters=sum(shape.rank * (m.in_features + m.out_features) for m in adapted),
    )


def memory(run: ShardedRun, dtype: torch.dtype = torch.bfloat16) -> dict[str, float]:
    """Compute the GPU memory of one rank by purpose, in GB of 2^30 bytes."""
    cfg, width = run.dit, dtype.itemsize
    counts = count_weights(cfg, run.adapters)
    noisy, sinks = run.tokens
    tokens = run.batch * (noisy + sinks)
    layer = counts.largest_layer + len(SETS) * counts.adapters // cfg.num_layers
    # Weights, two moments for both sets; for one set the average and the gradients.
    adapters = counts.adapters * FP32 * (3 * len(SETS) + 2)
    parts = {
        "frozen base": (counts.layers + counts.outside) * width / run.world,
        "adapters, moments, average, gradients": adapters / run.world,
        "gathered weights": (layer * (1 if run.world == 1 else GATHERED) + counts.outside) * width,
        "inputs of layers": cfg.num_layers * tokens * cfg.dim * width,
        "one layer": kept_bytes(run, width) + tokens * (cfg.dim * PASSING_BYTES + HIDDEN / 2 * cfg.ffn_dim * width),
        "the rest": TENSORS_GB * GB,
    }
    return {name: num_bytes / GB for name, num_bytes in parts.items()}


def kept_bytes(run: ShardedRun, width: int = BF16) -> float:
    """Compute the bytes that one layer keeps for its gradients, the copies of keys and values of each block included.

    Args:
        run: the dimensions.
        width: bytes of a number in a linear's input.
    """
    cfg = run.dit
    tokens = run.batch * sum(run.tokens)
    own = tokens * (cfg.dim * KEPT_BYTES * width / BF16 + HIDDEN / 2 * cfg.ffn_dim * width)
    return own + 2 * run.batch * sum(_seen(run)) * cfg.dim * width


def _seen(run: ShardedRun) -> list[int]:
    """Count the tokens that each block of a window attends to."""
    noisy, sinks = run.tokens
    span = noisy // run.size.num_blocks
    return [min((i + 1) * span, _ring(run)) + sinks for i in range(run.size.num_blocks)]


def _ring(run: ShardedRun) -> int:
    return run.dit.window_latents * (run.tokens[0] // run.size.num_latents)


def host_memory(run: ShardedRun) -> float:
    """Compute the host memory of all ranks, in GB."""
    return HOST_GB * run.world + HOST_COPIES * memory(run)["adapters, moments, average, gradients"] * run.world


def fits(run: ShardedRun, gpu: Gpu) -> bool:
    """Tell if a rank fits a GPU."""
    return sum(memory(run).values()) <= gpu.usable_gb


def forward_flop(run: ShardedRun, causal: bool = True) -> float:
    """Compute the work of one forward of the transformer on a rank's batch, attending as in a stream or to all."""
    stride = run.model.vae.spatial_stride
    costs = dit_costs(run.dit, run.size.w * stride, run.size.h * stride, stride)
    noisy, sinks = run.tokens
    span = noisy // run.size.num_blocks
    per_block = costs.linear_flop * (1 + costs.sink_share / run.size.num_blocks) + costs.other_flop
    pair = costs.attention_flop / (span * (_ring(run) + sinks))  # of one query and one key
    pairs = span * sum(_seen(run)) + sinks**2 if causal else (noisy + sinks) ** 2
    return run.batch * (run.size.num_blocks * per_block + pairs * pair)


@dataclass(frozen=True, slots=True)
class Forwards:
    """Numbers of forwards, in work, of an update."""

    student: float
    scores: float  # of teacher and fake score


def forwards(run: ShardedRun, student: bool) -> Forwards:
    """Count the forwards of an update: of the fake score alone, or of the student, too.

    The student rolls out to a step drawn at random, whose mean counts.
    """
    others = sum((steps - 1) / 2 for steps in OTHER_STEPS) / len(OTHER_STEPS)
    rollout = (1 - OTHER_SHARE) * (MAIN_STEPS - 1) / 2 + OTHER_SHARE * others
    trained = 1 + BACKWARDS
    if not student:
        return Forwards(rollout + 1, trained)
    teacher = 2 if run.guidance else 1
    walk = SUBSTEPS * teacher if run.anchor else 0
    return Forwards(rollout + trained * (2 if run.anchor else 1), teacher + 1 + walk + trained)


def update_flop(run: ShardedRun, student: bool | None = None) -> float:
    """Compute the work of an update: of the fake score alone, or of the student, too; the mean when not said."""
    if student is None:
        rest = FAKE_PER_STUDENT - 1
        return (update_flop(run, True) + rest * update_flop(run, False)) / FAKE_PER_STUDENT
    counts = forwards(run, student)
    return counts.student * forward_flop(run) + counts.scores * forward_flop(run, run.causal_scores)
