"""Loading of engines; the only module that knows all backends (plain, fast) and placements (one process, a group)."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from liveavatar.checkpoints.checksums import require_intact
from liveavatar.checkpoints.directory import read_config, resolve_model_dir
from liveavatar.checkpoints.load import LoadedModel, load_model
from liveavatar.config import ModelConfig
from liveavatar.distributed.group import LIMIT_SECONDS, Group
from liveavatar.distributed.placement import DecodeLayers, GroupPlacement, RankSpec
from liveavatar.engine.backend import Backend
from liveavatar.engine.device import pick_device, pick_dtype
from liveavatar.engine.engine import Engine
from liveavatar.engine.int8_decoder import use_bytes
from liveavatar.engine.plain import PlainBackend
from liveavatar.engine.prompt_encoder import prompt_encoder
from liveavatar.errors import InputError

log = logging.getLogger(__name__)

PARTS = ("dit", "vae", "text")
DecodeLayersFor = Callable[[ModelConfig, torch.device, bool], DecodeLayers]  # model, device, 8-bit linear layers


def load_engine(
    model: Path | str,
    device: str = "auto",
    dtype: str = "auto",
    *,
    fp8: bool = False,
    offload: bool = False,
) -> Engine:
    """Load a model; the large one on a GPU takes the fast path.

    Args:
        model: directory with config.json and weights, or the name of a preset: "mini" is the embedded model.
        device: "cpu", "cuda", "cuda:1", or "auto": the first GPU when there is one.
        dtype: "float32", "bfloat16", or "auto": bfloat16 where the device computes it fast, and the compact decoder's
            convolutions in 8-bit integers on a CPU with VNNI.
        fp8: linear layers of the transformer in 8 bits; GPUs only.
        offload: layers of the transformer stay in host memory, each arrives ahead of its use; GPUs only.

    Raises:
        CheckpointError: the directory is incomplete or damaged.
        InputError: there is no such preset or device, or the device cannot do what was asked.
        CapacityError: the GPU cannot do what was asked.
    """
    model_dir = resolve_model_dir(model) if isinstance(model, str) else model
    chosen = pick_device(device)
    precision = pick_dtype(dtype, chosen)
    special = {"--fp8": fp8, "--offload_model True": offload}
    gpu_only = [name for name, on in special.items() if on]
    if gpu_only and chosen.type != "cuda":
        raise InputError(f"{' and '.join(gpu_only)}: these need a GPU, and the device is {chosen}; drop them")
    require_intact(model_dir)
    log.info("loading %s on %s in %s", model_dir.name, chosen, precision)
    if _takes_fast_path(model_dir, chosen, fp8=fp8, offload=offload):
        from liveavatar.fast.load import load_fast_model

        loaded = load_fast_model(model_dir, chosen, precision, PARTS, fp8=fp8, offload=offload)
        return Engine(_fast(loaded, chosen, fp8), prompt_encoder(loaded, model_dir, chosen), model_dir=model_dir)
    loaded = load_model(model_dir, chosen, precision)
    use_bytes(loaded, dtype, chosen)
    return Engine(PlainBackend(loaded, chosen), prompt_encoder(loaded, model_dir, chosen), model_dir=model_dir)


class Rank:
    """A process of a group: its networks, loaded on first use, and jobs one after another."""

    def __init__(
        self,
        model_dir: Path,
        spec: RankSpec,
        device: str,
        dtype: str,
        limit_s: float = LIMIT_SECONDS,
        decode_layers_for: DecodeLayersFor | None = None,
    ) -> None:
        """Take a place in a group that is joined later.

        Args:
            model_dir: directory with config.json and weights.
            spec: the place.
            device, dtype: as in `load_engine`.
            limit_s: for anything to arrive from another rank, in seconds.
            decode_layers_for: on the fast path, spreads layers instead of whole steps, see `GroupPlacement`.
        """
        self.model_dir, self.spec, self.decode_layers_for = model_dir, spec, decode_layers_for
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self._asked_dtype = dtype
        self.group = Group(spec.rank, spec.world, self.device, limit_s)
        self._loaded: tuple[Engine, GroupPlacement] | None = None

    def engine(self) -> Engine:
        """Return the engine of this rank; the networks that its share needs are loaded on the first call."""
        return self._load()[0]

    def serve(self) -> bool:
        """Take part in the next job of the last rank; return False when that job failed before it began.

        Raises:
            GroupError: another rank was lost.
        """
        engine, placement = self._load()
        return placement.serve(engine.backend)

    def _load(self) -> tuple[Engine, GroupPlacement]:
        if self._loaded is None:
            spec, device = self.spec, self.device
            require_intact(self.model_dir)
            log.info("rank %d of %d loads %s", spec.rank, spec.world, ", ".join(spec.parts))
            decode_layers_of: DecodeLayers | None = None
            backend: Backend
            if _takes_fast_path(self.model_dir, device, fp8=spec.fp8):
                from liveavatar.fast.attention import FastAttention
                from liveavatar.fast.load import load_fast_model

                attention = FastAttention(self.group.agree)
                model = load_fast_model(
                    self.model_dir, device, self.dtype, spec.parts, fp8=spec.fp8, attention=attention, layers=spec.kept
                )
                backend = _fast(model, device, spec.fp8)
                if self.decode_layers_for is not None:
                    decode_layers_of = self.decode_layers_for(model.config, device, spec.fp8)
            else:
                model = load_model(self.model_dir, device, self.dtype, spec.parts)
                use_bytes(model, self._asked_dtype, device)
                backend = PlainBackend(model, device)
            num_layers = model.config.dit.num_layers
            placement = GroupPlacement(self.group, num_layers, spec.own_decoder, decode_layers_of, spec.layers)
            encode_prompt = prompt_encoder(model, self.model_dir, device)
            self._loaded = Engine(backend, encode_prompt, placement, model_dir=self.model_dir), placement
        return self._loaded


def _fast(model: LoadedModel, device: torch.device, fp8: bool) -> Backend:
    from liveavatar.fast.backend import FastBackend

    return FastBackend(model, device, fp8)


def _takes_fast_path(model_dir: Path, device: torch.device, *, fp8: bool, offload: bool = False) -> bool:
    """Tell if a model has a fast form that runs on the device."""
    return device.type == "cuda" and read_config(model_dir).runs_fast(fp8=fp8, offload=offload)
