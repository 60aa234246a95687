"""Weight of the decoder when a job's layers are spread over a group of GPUs, as the planner has it."""

from functools import partial

import torch

from liveavatar.config import ModelConfig
from liveavatar.distributed.placement import DecodeLayers
from liveavatar.hardware import GB, as_installed, gpu_of
from liveavatar.planning.speed import decode_layers


def decode_layers_for(config: ModelConfig, device: torch.device, fp8: bool) -> DecodeLayers:
    """Return the function that predicts, for a video size, how many layers take as long as decoding a block."""
    memory_gb = torch.cuda.get_device_properties(device).total_memory / GB
    rates = as_installed(gpu_of(torch.cuda.get_device_name(device), memory_gb)).rates
    return partial(decode_layers, config, rates, fp8)
