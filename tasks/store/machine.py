"""Facts of this machine that can change a result bit by bit, read without loading torch.

Latents are equal byte for byte only between machines whose processor offers the same instructions (or whose GPU
is of the same kind), so this description is part of a render's key and of every stored baseline.
"""

import platform
from functools import cache

from liveavatar import hardware


@cache
def accelerators() -> tuple[str, ...]:
    """Name the GPUs a process may use; empty when there are none."""
    return tuple(gpu.name for gpu in hardware.detect_gpus())


@cache
def processor() -> str:
    """Name the architecture and the widest vector instructions, such as "x86_64-avx512_bf16".

    Convolutions of bytes (VNNI) come with AVX-512 bf16; the name says where there is but one of them.
    """
    level = hardware.widest_vectors() or "base"
    vnni, usual = hardware.uses_vnni(), level == "avx512_bf16"
    return f"{platform.machine()}-{level}" + ("" if vnni == usual else "-vnni" if vnni else "-no_vnni")


def signature() -> str:
    """Name the device a render uses here: a GPU, or the processor and its number of threads."""
    gpus = accelerators()
    return gpus[0] if gpus else f"{processor()}-{hardware.cores()}"
