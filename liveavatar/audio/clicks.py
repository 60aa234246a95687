"""Removal of clicks: bursts of a few milliseconds that stand out from speech, found and bridged by FFmpeg's adeclick.

FFmpeg predicts every sample from its neighbours, also where nothing clicks. So only its bursts that are as short and as
loud as clicks are taken over, and none from a track in which they are rare and not louder than speech.
"""

from fractions import Fraction

import av
import av.filter
import numpy as np

from liveavatar.timing import SAMPLE_RATE

PIECE = 30 * SAMPLE_RATE  # samples filtered at once, which bounds memory
_CONTEXT = SAMPLE_RATE // 2  # samples around a piece
_LONGEST = 48  # samples of a click, 3 ms; longer bursts are consonants
_JOINED = 48  # samples; bursts nearer than that are one
_STRAY = 0.25  # change that belongs to a burst, over the standard deviation of the piece
_LOUD = 1.0  # peak of a click, over the same
_VERY_LOUD = 8.0  # peak of a click that counts alone, over the same; speech has peaks of up to 7
_LEAST_RATE = 1.0  # clicks a second below which quieter ones may be consonants
_STEEP = 8.0  # of a click, over the usual steepness; noise of any colour stays below
_MARGIN = 4  # samples around a burst that are bridged with it
_PASSES = 3  # what hides behind louder clicks is found in the next one


def remove_clicks(audio: np.ndarray) -> tuple[np.ndarray, int]:
    """Bridge the clicks of a track.

    Args:
        audio: float32 [samples], mono 16 kHz.

    Returns:
        The track, float32 of the same length, and the number of clicks; the very same array when there is none.
    """
    removed, out = 0, audio
    for start in range(0, len(audio), PIECE):
        first, stop = max(0, start - _CONTEXT), min(len(audio), start + PIECE)
        piece, count = _without_clicks(audio[first : min(len(audio), stop + _CONTEXT)])
        if count:
            out = audio.copy() if out is audio else out
            out[start:stop] = piece[start - first : stop - first]
            removed += count
    return out, removed


def _without_clicks(piece: np.ndarray) -> tuple[np.ndarray, int]:
    removed = 0
    for _ in range(_PASSES):
        bridged = _filtered(piece)
        bursts = _bursts(piece, bridged)
        often = len(bursts) >= _LEAST_RATE * len(piece) / SAMPLE_RATE
        spans = [span for span, peak in bursts if often or peak >= _VERY_LOUD]
        if not spans:
            break
        piece = piece.copy()
        for span in spans:
            around = slice(max(0, span.start - _MARGIN), span.stop + _MARGIN)
            piece[around] = bridged[around]
        removed += len(spans)
    return piece, removed


def _bursts(before: np.ndarray, after: np.ndarray) -> list[tuple[slice, float]]:
    """Find the stretches that changed and are as short and as loud as a click, with their peaks."""
    deviation = float(before.std())
    changed = np.abs(before - after)
    places = np.flatnonzero(changed > _STRAY * deviation)
    if not len(places) or not deviation:
        return []
    steepness = np.abs(np.diff(before, 2, prepend=before[:1], append=before[-1:]))
    usual = float(np.median(steepness)) / 0.6745  # standard deviation of a normal distribution with that median
    gaps = np.flatnonzero(np.diff(places) > _JOINED)
    spans = zip(places[np.r_[0, gaps + 1]], places[np.r_[gaps, len(places) - 1]] + 1, strict=True)
    bursts = [
        (slice(int(a), int(b)), float(changed[a:b].max()) / deviation)
        for a, b in spans
        if b - a <= _LONGEST and steepness[max(0, a - 1) : b + 1].max() >= _STEEP * usual
    ]
    return [(span, peak) for span, peak in bursts if peak >= _LOUD]


def _filtered(piece: np.ndarray) -> np.ndarray:
    """Run FFmpeg's filter over float32 [samples]; the first and last samples are missing a neighbourhood."""
    graph = av.filter.Graph()
    clock = Fraction(1, SAMPLE_RATE)
    source = graph.add_abuffer(sample_rate=SAMPLE_RATE, format="fltp", layout="mono", time_base=clock)
    graph.link_nodes(source, graph.add("adeclick"), graph.add("abuffersink")).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece[None], np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, clock
    graph.push(frame)
    graph.push(None)
    parts = []
    while True:
        try:
            parts.append(graph.pull().to_ndarray()[0])
        except (av.error.EOFError, av.error.BlockingIOError):
            break
    out = np.concatenate(parts)[: len(piece)] if parts else piece
    return np.concatenate([out, piece[len(out) :]])
