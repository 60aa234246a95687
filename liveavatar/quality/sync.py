"""Lip-sync measures: offset, local error, closeness, and rest in silence.

*Openness* is the inner-lip gap over the eye distance, one value a frame (NaN where no face was seen). The *envelope*
is the root mean square of the driving sound, one value a frame; the *vowel envelope* is that of its 500 to 1000 Hz,
where open vowels have their first formant: an s or an m is loud with the mouth shut, an a is not. All are numpy
float arrays [T] at 25 fps.

Sign: a positive lag means that the picture is late, the lips move after the sound they belong to.

Numbers quoted as "calibrated" come from 95 windows of 10 s: seven synthetic voices, mouth curves from their true
phoneme times with 0.006 to 0.03 of noise, against the mouth curves of other sentences. There the vowel envelope told
right from wrong sound better than the plain one (correlation, 5th percentile of right 0.52 against 0.44; 95th of
wrong 0.34 in both).
"""

import warnings
from dataclasses import dataclass

import numpy as np

from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

VOWEL_BAND = (500.0, 1000.0)  # Hz
CHUNK = 60 * SAMPLE_RATE  # samples filtered at a time, so that an hour of sound needs no copy of itself
OVERLAP = SAMPLE_RATE // 2  # samples around a chunk in which the filter settles
SETTLE = SAMPLE_RATE // 20  # samples over which the filter rings
MAX_LAG = 25  # frames searched each way for the offset of a video: 1 s
WINDOW = 2 * FPS  # frames of a local window
WINDOW_HOP = FPS  # frames
WINDOW_LAG = 8  # frames searched each way in a window; more, and chance peaks win in two seconds
WINDOW_TIE = 0.05  # correlation: chance lets a wrong lag of two seconds win by so much
WINDOW_SPEECH = 0.4  # share of a window that must be speech
SPEECH_BELOW_PEAK = 20.0  # dB under the loud frames that still count as speech
SILENCE_BELOW_PEAK = 28.0  # dB under the loud frames where silence begins
SILENCE_FLOOR = 10 ** (-60 / 20)  # RMS of digital silence; a track below it has no speech at all
COARTICULATION = 4  # frames next to speech in which the mouth may already, or still, be moving
MIN_SILENCE = 5  # frames of silence left after that; 0.2 s
MIN_SPEECH = 10  # frames of speech below which nothing is said about the lips
MOVES = 0.01  # eye distances; a mouth that opens less (5th to 95th percentile) does not speak


@dataclass(frozen=True, slots=True)
class Offset:
    """Lag of the best agreement of two curves."""

    frames: int  # lag, positive = picture late
    correlation: float  # Pearson, at that lag


def envelope(audio: np.ndarray, num_frames: int) -> np.ndarray:
    """Compute the root mean square of the sound of each frame.

    sqrt(mean(x**2)) over the 640 samples of frame i, [i/25, (i+1)/25) s. Unit: full scale = 1.

    Args:
        audio: float32 mono 16 kHz.
        num_frames: frames of the picture; the sound is cut or padded with silence.

    Returns:
        float64 [num_frames].
    """
    wanted = num_frames * SAMPLES_PER_FRAME
    padded = np.pad(audio[:wanted].astype(np.float64), (0, max(0, wanted - len(audio))))
    return np.sqrt((padded.reshape(num_frames, SAMPLES_PER_FRAME) ** 2).mean(1))


def vowel_envelope(audio: np.ndarray, num_frames: int) -> np.ndarray:
    """Compute the `envelope` of the sound's 500 to 1000 Hz (Butterworth of order 2, forwards and backwards: no delay).

    float64 [num_frames].
    """
    pieces = []
    for start in range(0, max(1, len(audio)), CHUNK):
        low, high = max(0, start - OVERLAP), min(len(audio), start + CHUNK + OVERLAP)
        if high - low < OVERLAP // 4:
            break
        filtered = _vowel_band(audio[low:high])[start - low :][:CHUNK]
        pieces.append(envelope(filtered, -(-len(filtered) // SAMPLES_PER_FRAME)))
    joined = np.concatenate(pieces)[:num_frames] if pieces else np.zeros(0)
    return np.pad(joined, (0, num_frames - len(joined)))


def _vowel_band(audio: np.ndarray) -> np.ndarray:
    """Filter a sound forwards and backwards: its spectrum times the squared response of the Butterworth filter.

    By FFT, because the import of scipy.signal takes longer than all other measures of lips. The sound is continued
    point-symmetrically at both ends, as `scipy.signal.sosfiltfilt` does.
    """
    edge = min(SETTLE, len(audio) - 1)
    padded = np.pad(audio.astype(np.float64), edge, "reflect", reflect_type="odd")
    length = len(padded) + SETTLE  # of which the last part is silent, so that the end does not run into the start
    length += -length % 1000  # sizes without a large prime factor
    warped = np.tan(np.pi * np.fft.rfftfreq(length))
    low, high = np.tan(np.pi * np.array(VOWEL_BAND) / SAMPLE_RATE)
    gain = np.zeros(len(warped))
    gain[1:] = 1 / (1 + ((warped[1:] ** 2 - low * high) / ((high - low) * warped[1:])) ** 4)
    return np.asarray(np.fft.irfft(np.fft.rfft(padded, length) * gain, length)[edge : edge + len(audio)])


@dataclass(frozen=True, slots=True)
class Speech:
    """Loudness curves of the driving sound, frame by frame."""

    envelope_T: np.ndarray
    vowels_T: np.ndarray

    @classmethod
    def of(cls, audio: np.ndarray, num_frames: int) -> "Speech":
        """Compute the curves of a sound (float32 mono 16 kHz) for `num_frames` frames.

        A constant offset, which cheap sound cards add and nobody hears, does not count as loudness.
        """
        offset = audio.mean(dtype=np.float64) if len(audio) else 0.0
        return cls(envelope(audio - np.float32(offset), num_frames), vowel_envelope(audio, num_frames))

    def __len__(self) -> int:
        return len(self.envelope_T)


def speech_mask(envelope_T: np.ndarray) -> np.ndarray:
    """Mark frames with speech: at most 20 dB under the 95th percentile of the envelope. bool [T]."""
    return envelope_T > _threshold(envelope_T, SPEECH_BELOW_PEAK)


def silence_mask(envelope_T: np.ndarray) -> np.ndarray:
    """Mark frames in the middle of silence, where a mouth should be at rest. bool [T].

    More than 28 dB under the 95th percentile, 4 frames away from any louder one (the mouth opens before a sound
    and shuts after it), in runs of at least 5 frames.
    """
    loud = envelope_T > _threshold(envelope_T, SILENCE_BELOW_PEAK)
    near = np.convolve(loud, np.ones(2 * COARTICULATION + 1), "same") > 0
    quiet = ~near
    for start, end in _runs(quiet):
        if end - start < MIN_SILENCE:
            quiet[start:end] = False
    return quiet


def cross_correlation(openness_T: np.ndarray, vowels_T: np.ndarray, max_lag: int) -> np.ndarray:
    """Correlate (Pearson) openness[t + lag] with the loudness at t, for every lag from -max_lag to max_lag.

    Loudness is the square root of the vowel envelope (it grows about with that power of the pressure). Frames
    without a face are left out. A lag with fewer than half the frames, or no variation, gives 0.

    Returns:
        float64 [2 * max_lag + 1].
    """
    loudness = np.sqrt(vowels_T)
    total = min(len(openness_T), len(loudness))
    result = np.zeros(2 * max_lag + 1)
    for lag in range(-max_lag, max_lag + 1):
        x = openness_T[max(0, lag) : total + min(0, lag)]
        y = loudness[max(0, -lag) : total - max(0, lag)]
        seen = np.isfinite(x)
        if seen.sum() < max(3, total / 2 - max_lag):
            continue
        x, y = x[seen] - x[seen].mean(), y[seen] - y[seen].mean()
        scale = np.sqrt((x**2).sum() * (y**2).sum())
        result[lag + max_lag] = (x * y).sum() / scale if scale > 1e-12 else 0.0
    return result


def av_offset(openness_T: np.ndarray, speech: Speech) -> Offset:
    """Compute `av_offset_frames`: the lag with the highest cross-correlation between openness and envelope.

    argmax over lag of corr(openness[t + lag], sqrt(vowel envelope[t])), lag within +-25 frames, over the whole video.
    Unit: frames; positive = picture late. Source: own definition. Calibrated: right sound 0 or 1 in 98 %.

    Raises:
        MeasureUnavailable: no face, no speech, or a mouth that does not move.
    """
    _require_motion(openness_T, speech.envelope_T)
    correlation = cross_correlation(openness_T, speech.vowels_T, min(MAX_LAG, len(openness_T) // 3))
    best = int(correlation.argmax())
    return Offset(best - len(correlation) // 2, float(correlation[best]))


def sync_error(openness_T: np.ndarray, speech: Speech) -> float:
    """Compute `sync_error_frames`: mean absolute lag over 2 s windows that contain speech.

    In windows of 50 frames every 25, at least 40 % of them speech: the |lag| within +-8 frames of the highest
    cross-correlation, averaged. Where others are as high within 0.05, the lag nearest to 0 counts: lips that follow a
    few syllables agree about as well at many lags. Unit: frames. Source: own definition. Good videos of the fault
    bench: under 1.4; another video's sound 4.7 in the median.

    Raises:
        MeasureUnavailable: as `av_offset`, or when no window holds enough speech.
    """
    _require_motion(openness_T, speech.envelope_T)
    lags = [abs(lag) for _, lag in window_lags(openness_T, speech)]
    if not lags:
        raise MeasureUnavailable("no two seconds of the video hold enough speech", Absence.NOT_APPLICABLE)
    return float(np.mean(lags))


def window_lags(openness_T: np.ndarray, speech: Speech) -> list[tuple[int, int]]:
    """Compute (first frame, lag in frames) of every 2 s window with speech."""
    spoken = speech_mask(speech.envelope_T)
    total = min(len(openness_T), len(speech))
    result = []
    for start in range(0, max(1, total - WINDOW + 1), WINDOW_HOP):
        part = slice(start, start + WINDOW)
        if spoken[part].mean() < WINDOW_SPEECH or np.isfinite(openness_T[part]).sum() < WINDOW // 2:
            continue
        correlation = cross_correlation(openness_T[part], speech.vowels_T[part], WINDOW_LAG)
        best = np.flatnonzero(correlation >= correlation.max() - WINDOW_TIE) - WINDOW_LAG
        result.append((start, int(best[np.abs(best).argmin()])))
    return result


def lip_sync(openness_T: np.ndarray, envelope_T: np.ndarray) -> float:
    """Compute `lip_sync`: mean absolute difference of normalised openness and normalised RMS on speech frames.

    Both curves are scaled so that their 2nd and 98th percentile are 0 and 1, and clipped. Unit: share of the range;
    0 = identical. Real people 0.25 (THEval, arXiv 2511.04520); calibrated: right sound 0.25, wrong 0.30.

    Raises:
        MeasureUnavailable: as `av_offset`.
    """
    _require_motion(openness_T, envelope_T)
    total = min(len(openness_T), len(envelope_T))
    difference = np.abs(_unit_range(openness_T[:total]) - _unit_range(envelope_T[:total]))
    return float(np.nanmean(difference[speech_mask(envelope_T)[:total]]))


def silent_lip(openness_T: np.ndarray, envelope_T: np.ndarray) -> float:
    """Compute `silent_lip`: standard deviation of openness in silence.

    Over the frames of `silence_mask`. Unit: eye distances; real people 0.026 (THEval, arXiv 2511.04520).

    Raises:
        MeasureUnavailable: when no face was seen in silence, or there is no silence.
    """
    return float(np.std(_silent_openness(openness_T, envelope_T)))


def silent_openness(openness_T: np.ndarray, envelope_T: np.ndarray) -> float:
    """Compute `silent_openness`: median openness in silence over the video's 98th percentile, 0 to 1.

    Raises:
        MeasureUnavailable: as `silent_lip`.
    """
    rest = np.median(_silent_openness(openness_T, envelope_T))
    return float(rest / max(float(np.nanpercentile(openness_T, 98)), 1e-6))


def openness_range(openness_T: np.ndarray) -> float:
    """Compute `openness_range`: from the 5th to the 95th percentile of openness, in eye distances.

    Raises:
        MeasureUnavailable: when no face was seen.
    """
    if not np.isfinite(openness_T).any():
        raise MeasureUnavailable("no face was found in the video", Absence.FAULT)
    low, high = np.nanpercentile(openness_T, [5, 95])
    return float(high - low)


def _silent_openness(openness_T: np.ndarray, envelope_T: np.ndarray) -> np.ndarray:
    total = min(len(openness_T), len(envelope_T))
    silence = silence_mask(envelope_T)[:total]
    if silence.sum() < MIN_SILENCE:
        raise MeasureUnavailable("the sound has no silence long enough to watch the mouth rest", Absence.NOT_APPLICABLE)
    quiet = openness_T[:total][silence]
    quiet = quiet[np.isfinite(quiet)]
    if len(quiet) < MIN_SILENCE:
        raise MeasureUnavailable("no face was found while the sound is silent", Absence.FAULT)
    return quiet


def _require_motion(openness_T: np.ndarray, envelope_T: np.ndarray) -> None:
    if np.isfinite(openness_T).mean() < 0.5:
        raise MeasureUnavailable("a face was found in fewer than half of the frames", Absence.FAULT)
    if speech_mask(envelope_T).sum() < MIN_SPEECH:
        raise MeasureUnavailable("the sound holds less than 0.4 s of speech", Absence.NOT_APPLICABLE)
    if openness_range(openness_T) < MOVES:
        raise MeasureUnavailable("the mouth does not move", Absence.FAULT)


def _threshold(envelope_T: np.ndarray, below: float) -> float:
    """Compute the level so many dB under the loud frames, however quiet those are; of a silent track the floor."""
    peak = float(np.percentile(envelope_T, 95)) if len(envelope_T) else 0.0
    return peak * 10 ** (-below / 20) if peak > SILENCE_FLOOR else SILENCE_FLOOR


def _unit_range(curve_T: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN curves are refused before
        low, high = np.nanpercentile(curve_T, [2, 98])
    return np.clip((curve_T - low) / max(high - low, 1e-9), 0, 1)


def _runs(mask_T: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.r_[0, mask_T.astype(np.int8), 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
