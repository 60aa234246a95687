"""DNSMOS P.835: predicted mean opinion scores (1 to 5) of speech, background and overall, without a reference.

Runs the model that the `speechmos` wheel carries (Reddy, Gopal, Cutler 2022; MIT) by onnxruntime. The score depends
on level, so compare tracks of equal loudness.
"""

from dataclasses import dataclass

import numpy as np

from liveavatar.audio.vad import onnx_session, wheel_file

_WINDOW = 144_160  # samples, 9.01 s at 16 kHz
_MAX_WINDOWS = 4  # evenly spaced; a score takes 0.12 s a window on two cores
# raw outputs to opinion scores, highest power first (published with the model)
_SIG = (-0.08397278, 1.22083953, 0.0052439)
_BAK = (-0.13166888, 1.60915514, -0.39604546)
_OVR = (-0.06766283, 1.11546468, 0.04602535)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """Mean opinion scores, 1 (bad) to 5 (excellent)."""

    overall: float
    speech: float
    background: float


def dnsmos(audio: np.ndarray) -> Opinion:
    """Score a track, averaged over up to four windows of 9 s; a shorter track is repeated to fill one.

    Args:
        audio: float32 mono 16 kHz within [-1, 1].

    Raises:
        InputError: when speechmos or onnxruntime is not installed.
    """
    session = onnx_session(wheel_file("speechmos", "dnsmos_models/sig_bak_ovr.onnx"))
    track = np.tile(audio, -(-_WINDOW // len(audio))) if len(audio) < _WINDOW else audio
    spare = len(track) - _WINDOW
    count = min(_MAX_WINDOWS, 1 + spare // (_WINDOW // 2)) if len(audio) >= _WINDOW else 1
    starts = np.linspace(0, spare, count).astype(int) if count > 1 else [0]
    windows = np.stack([track[s : s + _WINDOW] for s in starts]).astype(np.float32)
    raw = np.concatenate([session.run(None, {"input_1": w[None]})[0] for w in windows])
    speech, background, overall = (
        float(np.polyval(poly, raw[:, i]).mean()) for i, poly in enumerate((_SIG, _BAK, _OVR))
    )
    return Opinion(overall=overall, speech=speech, background=background)
