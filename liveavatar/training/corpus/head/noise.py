"""Tileable noise fields for skin, cloth and hair, generated with a fixed seed."""

import numpy as np


def _unit(x: np.ndarray) -> np.ndarray:
    return x / x.std()


def noise_volume(size: int = 64) -> np.ndarray:
    """Generate low, middle and fine noise of unit variance and the gradient of the fine one.

    Returns:
        float32 [6, size + 1, size + 1, size + 1].
    """
    rng = np.random.default_rng(0)
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(size) * size] * 3, indexing="ij"))
    radius = np.sqrt((k**2).sum(0)) + 1e-3
    first, second = (np.fft.fftn(rng.normal(size=(size,) * 3)) for _ in range(2))
    fine = second * (radius > 5) / radius**0.6 * np.exp(-((radius / 24) ** 2))
    spectra = [first * (radius > 0.5) / radius**1.7, second * np.exp(-(((radius - 14) / 6) ** 2)), fine]
    spectra += [fine * 1j * k[2 - i] for i in range(3)]
    volume = np.stack([_unit(np.fft.ifftn(s).real) for s in spectra]).astype(np.float32)
    return np.pad(volume, ((0, 0), (0, 1), (0, 1), (0, 1)), mode="wrap")


def strand_noise(across: int = 512, along: int = 32) -> np.ndarray:
    """Generate coarse and fine noise of unit variance stretched along strands, float32 [2, along + 1, across + 1]."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.fft2(rng.normal(size=(along, across)))
    ky = np.fft.fftfreq(along)[:, None] * along
    kx = np.fft.fftfreq(across)[None] * across
    slow = np.exp(-((ky / 3) ** 2))
    fields = [spectrum * slow * np.exp(-((kx / 170) ** 2)), spectrum.conj() * slow * np.exp(-((kx / 45) ** 2))]
    noise = np.stack([_unit(np.fft.ifft2(f).real) for f in fields]).astype(np.float32)
    return np.pad(noise, ((0, 0), (0, 1), (0, 1)), mode="wrap")
