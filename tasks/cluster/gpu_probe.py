"""Ask the CUDA driver, in a process of its own, whether the first GPU that is visible here can be used: exit code 0.

A GPU that fell off the bus, or waits for a reset, is still listed by the driver; only a context on it tells. A process
keeps the answer that it once got, and a question to a broken GPU may hang. Needs nothing but Python.
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

LIBRARY = "libcuda.so.1"
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY: the GPU is there, and full


def is_usable(load: Callable[[str], Any] = ctypes.CDLL) -> bool:
    """Make a context on the first visible GPU; return whether that went well.

    Args:
        load: opens a library of C; where there is no library of CUDA, nothing speaks against the GPU.
    """
    try:
        cuda = load(LIBRARY)
    except OSError:
        return True
    device, context = ctypes.c_int(), ctypes.c_void_p()
    steps = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
    )
    error = next((error for error in (step() for step in steps) if error), 0)
    return error in (0, OUT_OF_MEMORY)


if __name__ == "__main__":
    sys.exit(not is_usable())
