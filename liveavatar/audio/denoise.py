"""Noise reduction by spectral gating (noisereduce), piece by piece, without changing the length.

*Stationary* gates every frequency against one noise profile; *nonstationary* against a floor that follows the sound.
`attenuate` lowers stretches with smooth edges, so that noise between sentences does not move the avatar's mouth.
"""

import logging

import numpy as np

from liveavatar.audio.vad import Segment
from liveavatar.errors import InputError
from liveavatar.timing import SAMPLE_RATE

MODES = ("stationary", "nonstationary")
PIECE = 30 * SAMPLE_RATE  # samples gated at once, which bounds memory
_CONTEXT = 3 * SAMPLE_RATE  # samples around a piece; the moving floor looks about 2 s back
_NUM_FFT = 512  # samples, 32 ms
_QUIET_FRAME = 1024  # samples
_QUIET_SHARE = 0.15  # share of frames taken as noise when no pause is known
_PROFILE_SECONDS = 10  # of noise that make a profile
_RAMP = round(0.06 * SAMPLE_RATE)  # samples of a fade

log = logging.getLogger(__name__)


def reduce_noise(
    audio: np.ndarray, mode: str, strength: float = 0.9, noise: np.ndarray | None = None
) -> np.ndarray:  # fmt: skip
    """Reduce steady or slowly changing noise.

    Args:
        audio: float32 [samples], mono 16 kHz.
        mode: "stationary" or "nonstationary".
        strength: share by which gated bins are lowered, 0 to 1.
        noise: a stretch of noise alone, for the stationary profile; the quietest frames when None.

    Returns:
        float32 of exactly the same length.

    Raises:
        InputError: unknown mode, or a strength outside 0..1.
    """
    if mode not in MODES:
        raise InputError(f"denoise mode {mode!r} is unknown; choose {' or '.join(MODES)}")
    if not 0.0 <= strength <= 1.0:
        raise InputError(f"denoise strength {strength} is outside 0..1; 0.5 is mild, 0.9 strong")
    import noisereduce

    profile = quietest(audio) if noise is None else noise
    out = np.empty(len(audio), np.float32)
    for start in range(0, len(audio), PIECE):
        first, stop = max(0, start - _CONTEXT), min(len(audio), start + PIECE)
        piece = audio[first : min(len(audio), stop + _CONTEXT)]
        with np.errstate(divide="ignore", invalid="ignore"):  # the moving floor of digital silence is 0 / 0
            gated = noisereduce.reduce_noise(
                y=piece,
                sr=SAMPLE_RATE,
                stationary=mode == "stationary",
                y_noise=profile if mode == "stationary" else None,
                prop_decrease=strength,
                n_fft=_NUM_FFT,
                chunk_size=len(piece) + 1,  # one chunk: pieces are cut here, with the context they need
                padding=_NUM_FFT * 4,
            )
        middle = np.nan_to_num(gated[start - first : stop - first])
        out[start : start + len(middle)] = middle
        out[start + len(middle) : stop] = 0.0
    return out


def quietest(audio: np.ndarray) -> np.ndarray:
    """Concatenate the quietest 15 % of 64 ms frames, at most 10 s: a noise profile when no pause is known."""
    num_frames = len(audio) // _QUIET_FRAME
    if num_frames < 8:
        return audio
    frames = audio[: num_frames * _QUIET_FRAME].reshape(num_frames, _QUIET_FRAME)
    power = np.square(frames).mean(1)
    count = min(max(4, int(num_frames * _QUIET_SHARE)), _PROFILE_SECONDS * SAMPLE_RATE // _QUIET_FRAME)
    return frames[np.sort(np.argsort(power, kind="stable")[:count])].reshape(-1)


def pauses(audio: np.ndarray, speech: list[Segment], min_seconds: float = 0.5) -> np.ndarray | None:
    """Extract the sound outside the speech segments, at most 10 s; None when there is less than `min_seconds`."""
    limit = _PROFILE_SECONDS * SAMPLE_RATE
    edges = [0, *(e for s in speech for e in (s.start, s.stop)), len(audio)]
    parts, total = [], 0
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        parts.append(audio[start : min(stop, start + limit - total)])
        total += len(parts[-1])
        if total >= limit:
            break
    return np.concatenate(parts) if total >= min_seconds * SAMPLE_RATE else None


def attenuate(audio: np.ndarray, speech: list[Segment], floor_db: float = -20.0) -> np.ndarray:
    """Lower everything outside the speech segments; fades of 60 ms lie outside the speech.

    Args:
        audio: float32 [samples], mono 16 kHz.
        floor_db: gain between segments, dB.

    Returns:
        float32 of the same length; speech samples are unchanged.
    """
    floor = np.float32(10 ** (floor_db / 20))
    out = audio * floor
    fade = (floor + (1 - floor) * 0.5 * (1 - np.cos(np.pi * (np.arange(_RAMP) + 0.5) / _RAMP))).astype(np.float32)
    for s in speech:
        out[s.start : s.stop] = audio[s.start : s.stop]
    for s in speech:
        # the louder of two overlapping fades wins
        first, last = max(0, s.start - _RAMP), min(len(audio), s.stop + _RAMP)
        rise, fall = fade[_RAMP - (s.start - first) :], fade[::-1][: last - s.stop]
        out[first : s.start] = _louder(out[first : s.start], audio[first : s.start] * rise)
        out[s.stop : last] = _louder(out[s.stop : last], audio[s.stop : last] * fall)
    return out


def _louder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(np.abs(b) > np.abs(a), b, a)
