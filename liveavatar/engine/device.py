"""Choice of the device and dtype that an engine computes with."""

import torch

from liveavatar.errors import InputError


def pick_device(device: str) -> torch.device:
    """Return the device of a name; "auto" is the first GPU, else the CPU.

    Raises:
        InputError: there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device}: PyTorch sees no GPU here; use --device cpu, or install a CUDA build")
    return torch.device(device)


def with_index(device: torch.device) -> torch.device:
    """Return a GPU with its index, which some of PyTorch's functions insist on; other devices as they are."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def memory_share(device: torch.device) -> float:
    """Return the share of a GPU's memory that this process may take, of 1."""
    return torch.cuda.get_per_process_memory_fraction(with_index(device))


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a name; "auto" is bfloat16 on GPUs and on CPUs that compute it natively."""
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    native = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32
