"""Nearest setting that fits: a search over sizes, steps, precision, offload and placement by distance from the request.

The distance adds up how far each option is from what was asked. Memory grows with the size, so the largest
size that fits is found by bisection for every combination of the other options.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

from liveavatar.config import LISTED_SIZES, MINI, ModelConfig
from liveavatar.hardware import Machine
from liveavatar.media.sizes import STEP, released_size
from liveavatar.planning.choice import Choice, choose
from liveavatar.planning.request import PlanRequest
from liveavatar.timing import BLOCK_FRAMES

Size = tuple[int, int]
MIN_STEPS = 3  # fewer are not proposed, unless they were asked for
# Distance of a change: another size, and an octave of its area; a denoise step less; weights in 8 bits; another dtype
# of keys and values; another placement; weights in host memory, which costs speed by multiples.
SIZE, OCTAVE, STEPS, FP8, KV_DTYPE, PLACEMENT, OFFLOAD = 0.5, 2.0, 2.0, 1.0, 0.5, 0.5, 6.0


def nearest(config: ModelConfig, request: PlanRequest, machine: Machine) -> dict[str, Any] | None:
    """Find the options that fit and change least, with their `fps`; None when nothing does.

    Where no setting of a model that needs a GPU fits, that is the embedded model, without `fps`.
    """
    infer_frames = max(BLOCK_FRAMES, request.settings.infer_frames // BLOCK_FRAMES * BLOCK_FRAMES)
    base = request.changed(infer_frames=infer_frames)
    sizes = reachable_sizes(config, (base.width, base.height))
    best: Choice | None = None
    best_distance = math.inf
    for distance, changes in sorted(_changes(config, base, machine), key=lambda change: change[0]):
        if distance >= best_distance:
            break
        candidate = base.changed(**changes)
        near = [size for size in sizes if distance + size_distance(base, size) < best_distance]
        found = _largest(config, candidate, near, machine)
        if found is not None:
            smaller = found.model.request
            best, best_distance = found, distance + size_distance(base, (smaller.width, smaller.height))
    if best is not None:
        return _options(config, best)
    if config.needs_gpu:
        width, height = MINI.default_area
        steps = min(request.settings.sample_steps, 4)
        small = request.changed(
            width=width, height=height, sample_steps=steps, infer_frames=infer_frames, placement="auto", fp8=False,
            kv_cache_dtype="auto", offload=False,
        )  # fmt: skip
        if not machine.gpus or choose(MINI, small, machine).fits:
            return {"model": MINI.name, "size": f"{width}*{height}", "sample_steps": steps}
    return None


def size_distance(request: PlanRequest, size: Size) -> float:
    """Compute the distance of another size."""
    asked = request.width * request.height
    return 0.0 if size == (request.width, request.height) else SIZE + OCTAVE * math.log2(asked / (size[0] * size[1]))


def reachable_sizes(config: ModelConfig, size: Size) -> list[Size]:
    """List the size and the smaller ones that `--size` gives for a picture of its aspect, the largest first.

    A picture's own size may have fewer pixels than the least that `--size` takes; those others are not reachable.
    """
    if config.size_rule == LISTED_SIZES:
        upright = size[1] > size[0]
        listed = {(min(area), max(area)) if upright else (max(area), min(area)) for area in config.areas}
    else:
        least = _least(config)[0]
        areas = range(least, size[0] * size[1] + 1, STEP * STEP)
        listed = {released_size(*size, area) for area in areas}
        listed = {
            other
            for other in listed
            if other[0] * other[1] >= least and released_size(*size, other[0] * other[1]) == other
        }
    smaller = [other for other in listed if other[0] * other[1] < size[0] * size[1]]
    return [size, *sorted(smaller, key=lambda other: (-other[0] * other[1], other))]


def _largest(config: ModelConfig, request: PlanRequest, sizes: list[Size], machine: Machine) -> Choice | None:
    """Find the largest of the sizes, which are in descending order, at which a job fits."""

    def tried(index: int) -> Choice:
        width, height = sizes[index]
        return choose(config, request.changed(width=width, height=height), machine)

    if not sizes:
        return None
    low, high = 0, len(sizes) - 1  # the answer is in low..high, if there is one
    last = tried(high)
    if not last.fits:
        return None
    best = last
    while low < high:
        middle = (low + high) // 2
        found = tried(middle)
        if found.fits:
            best, high = found, middle
        else:
            low = middle + 1
    return best


def _changes(config: ModelConfig, request: PlanRequest, machine: Machine) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield (distance, changes of the request) for all options but the size."""
    settings = request.settings
    most, has_fp8 = settings.sample_steps, {gpu.rates.has_fp8 for gpu in machine.gpus}
    steps = [n for n in sorted(config.sigmas, reverse=True) if min(MIN_STEPS, most) <= n <= most]
    weights = [False, True] if any(has_fp8) else [False]
    if settings.fp8 and machine.has_fp8:
        weights = [True]
    dtypes = list(dict.fromkeys((settings.kv_cache_dtype, "auto"))) if config.has_kv_choice else ["auto"]
    offloads = [request.offload] if request.offload or not machine.gpus else [False, True]
    if request.placement == "tpp" and request.offload:
        offloads = [True, False]  # together they are refused
    placements = list(dict.fromkeys((request.placement, "auto")))
    for count, fp8, dtype, offload, placement in product(steps, weights, dtypes, offloads, placements):
        distance = STEPS * (most - count)
        distance += FP8 * (fp8 != settings.fp8) + KV_DTYPE * (dtype != settings.kv_cache_dtype)
        distance += OFFLOAD * (offload and not request.offload) + PLACEMENT * (placement != request.placement)
        yield (
            distance,
            {
                "sample_steps": count,
                "fp8": fp8,
                "kv_cache_dtype": dtype,
                "offload": offload,
                "placement": placement,
            },
        )


def _least(config: ModelConfig) -> tuple[int, Size]:
    """Return the fewest pixels that `--size` takes, and the size that has them."""
    return min((width * height, (width, height)) for width, height in config.areas)


def _options(config: ModelConfig, choice: Choice) -> dict[str, Any]:
    """Return a choice as the options that ask for it; of a size below the least, the least gives it again."""
    request = choice.model.request
    options = {**request.options(), "fps": round(choice.fps, 2)}
    pixels, (width, height) = _least(config)
    return options if request.width * request.height >= pixels else options | {"size": f"{width}*{height}"}
