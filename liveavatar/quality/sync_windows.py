"""Lip measures over windows: lips that stop, lips that speak in silence, sound that slips, sound that is clipped.

The measures of `sync` judge the whole video; these find the seconds in which it goes wrong. Curves as in `sync`.
"""

import numpy as np

from liveavatar.media import clipping
from liveavatar.quality import sync
from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.quality.windows import Local, longest_run
from liveavatar.timing import FPS

SLIP_WINDOW = 4 * FPS  # frames; shorter ones find chance peaks
SLIP_HOP = FPS // 2
SLIP_LAG = 60  # frames searched each way for the place where a window fits
OWN_LAG = 3  # frames around the video's offset that still count as its own
BEAT = 18  # frames of a window in which a speaking mouth opens or shuts
MOUTH_STILL = 0.02  # eye distances
MOUTH_STILL_SHARE = 0.15  # of the video's own range
REST_WINDOW = FPS  # frames of silence over which a mouth rests
MUTED_STEP, MUTED_RATE = 160, 100  # samples of a step, steps a second
MUTED_DB, MUTED_EDGE_DB = 55.0, 40.0  # under the speech: silence that no microphone records; where a voice is cut off
MUTED_SHORTEST, MUTED_INSIDE = 0.65, 0.24  # s
MUTED_MOVES = 0.25  # of the range of the mouth's openness
MUTED_PATH = 1.3  # times what it moves by: the way that it goes, there and back
SILENT_DB = -70.0


def mouth_still(openness_T: np.ndarray, envelope_T: np.ndarray) -> Local:
    """Compute `mouth_still_s`: the longest speech during which the mouth does not move.

    Windows of 18 frames, at least 70 % of them speech, in which openness stays within 0.02 eye distances and 15 % of
    its range over the video; their longest run, in seconds. Source: own definition.

    Raises:
        MeasureUnavailable: no face, or no speech.
    """
    total = min(len(openness_T), len(envelope_T))
    spoken = sync.speech_mask(envelope_T)[:total]
    if spoken.sum() < sync.MIN_SPEECH or total < BEAT:
        raise MeasureUnavailable("the sound holds less than 0.4 s of speech", Absence.NOT_APPLICABLE)
    allowed = max(MOUTH_STILL, MOUTH_STILL_SHARE * sync.openness_range(openness_T))
    views = np.lib.stride_tricks.sliding_window_view(openness_T[:total], BEAT)
    share = np.convolve(spoken, np.ones(BEAT) / BEAT, "valid")
    still = (views.max(1) - views.min(1) < allowed) & (share > 0.7)
    start, length = longest_run(still)
    return Local((length + BEAT - 1) / FPS if length else 0.0, start / FPS)


def silent_speech(openness_T: np.ndarray, envelope_T: np.ndarray) -> Local:
    """Compute `silent_speech`: the unrest of the mouth in the worst second of silence.

    The standard deviation of openness over the silent frames (`sync.silence_mask`) of each second, the largest; a
    second counts with at least 12 silent frames. Unit: eye distances. Source: own definition.

    Raises:
        MeasureUnavailable: without such a second.
    """
    total = min(len(openness_T), len(envelope_T))
    quiet = sync.silence_mask(envelope_T)[:total] & np.isfinite(openness_T[:total])
    worst = Local(-1.0, 0.0)
    for start in range(0, max(1, total - REST_WINDOW + 1), 5):
        part = slice(start, start + REST_WINDOW)
        if quiet[part].sum() >= REST_WINDOW // 2:
            unrest = float(openness_T[part][quiet[part]].std())
            worst = max(worst, Local(unrest, start / FPS), key=lambda local: local.value)
    if worst.value < 0:
        raise MeasureUnavailable("no second of the sound is silent", Absence.NOT_APPLICABLE)
    return worst


def muted(openness_T: np.ndarray, audio: np.ndarray) -> Local:
    """Compute `muted_s`: the longest time for which the sound is switched off while the mouth goes on.

    Runs of at least 0.65 s that lie 55 dB under the speech (90th percentile of 10 ms), begin and end within 40 dB of
    it, as no voice does that comes to rest, and in whose middle (but 0.24 s at each end) openness moves over a quarter
    of its range in the video, there and back: a mouth that only shuts has come to rest. Unit: seconds. Source: own
    definition.

    Raises:
        MeasureUnavailable: no face, or no sound.
    """
    count = len(audio) // MUTED_STEP
    steps = audio[: count * MUTED_STEP].reshape(count, MUTED_STEP).astype(np.float64)
    level = 10 * np.log10((steps**2).mean(1) + 1e-14)
    if not count or (speech := float(np.percentile(level, 90))) < SILENT_DB:
        raise MeasureUnavailable("the sound is silent", Absence.NOT_APPLICABLE)
    moves = MUTED_MOVES * sync.openness_range(openness_T)
    dead = level < speech - MUTED_DB
    while (run := longest_run(dead))[1] >= MUTED_SHORTEST * MUTED_RATE:
        first, length = run
        dead[first : first + length] = False
        edges = level[max(0, first - 4) : first], level[first + length : first + length + 4]
        abrupt = all(len(edge) and edge.max() > speech - MUTED_EDGE_DB for edge in edges)
        start, stop = first / MUTED_RATE + MUTED_INSIDE, (first + length) / MUTED_RATE - MUTED_INSIDE
        lips = openness_T[int(start * FPS) : int(stop * FPS)]
        lips = lips[np.isfinite(lips)]
        if abrupt and len(lips) >= 3 and _goes_on(lips, moves):
            return Local(length / MUTED_RATE, first / MUTED_RATE)
    return Local(0.0, 0.0)


def _goes_on(lips_T: np.ndarray, moves: float) -> bool:
    path = float(np.abs(np.diff(lips_T)).sum())
    return float(np.ptp(np.percentile(lips_T, (5, 95)))) > moves and path > MUTED_PATH * float(np.ptp(lips_T))


def slip(openness_T: np.ndarray, speech: sync.Speech) -> tuple[Local, Local]:
    """Compute `sync_slip` and `sync_worst`: how well the lips fit their own place in every four seconds.

    In windows of 100 frames every 12, at least 40 % of them speech, the lips are correlated with the sound at lags
    within 3 frames of the video's offset (own) and at all others within +-60 (other). `sync_worst` is the lowest own
    correlation, `sync_slip` the largest lead of other over own. Unit: correlation. Source: own definition.

    Raises:
        MeasureUnavailable: as `sync.av_offset`, or when no window holds enough speech.
    """
    offset = sync.av_offset(openness_T, speech).frames
    offset = offset if abs(offset) <= OWN_LAG else 0
    loudness = np.sqrt(speech.vowels_T)
    spoken = sync.speech_mask(speech.envelope_T)
    total = min(len(openness_T), len(speech))
    window = min(SLIP_WINDOW, total)
    worst, lead = Local(2.0, 0.0), Local(-2.0, 0.0)
    for start in range(0, total - window + 1, SLIP_HOP):
        if spoken[start : start + window].mean() < sync.WINDOW_SPEECH:
            continue
        lips = openness_T[start : start + window]
        if np.isfinite(lips).mean() < 0.8 or np.nanstd(lips) < sync.MOVES / 2:
            continue
        best = {True: -1.0, False: -1.0}
        for lag in range(-SLIP_LAG, SLIP_LAG + 1):
            first = start - lag
            if first < 0 or first + window > total:
                continue
            value = _correlation(lips, loudness[first : first + window])
            own = abs(lag - offset) <= OWN_LAG
            best[own] = max(best[own], value)
        middle = (start + window / 2) / FPS
        worst = min(worst, Local(best[True], middle), key=lambda local: local.value)
        lead = max(lead, Local(best[False] - best[True], middle), key=lambda local: local.value)
    if worst.value > 1:
        raise MeasureUnavailable("no four seconds of the video hold enough speech", Absence.NOT_APPLICABLE)
    return lead, worst


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    seen = np.isfinite(a)
    a, b = a[seen] - a[seen].mean(), b[seen] - b[seen].mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0


def clipped_share(audio: np.ndarray) -> float:
    """Compute `clipped_share`: the share of samples of speech within a tenth of the peak.

    Unit: share. Source: own definition, see `liveavatar.media.clipping`.

    Raises:
        MeasureUnavailable: when the sound is silent.
    """
    if clipping.peak_of(audio) < sync.SILENCE_FLOOR:
        raise MeasureUnavailable("the sound is silent", Absence.NOT_APPLICABLE)
    return clipping.clipped_share(audio)
