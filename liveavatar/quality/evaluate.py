"""Evaluation of a video: every key of `report.json`'s metrics, and the tables behind them.

A metric that cannot be measured is None and its reason stands in `reasons`; there is no stand-in number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from liveavatar.errors import InputError
from liveavatar.face.landmarks import UNSTEADY
from liveavatar.files import plain
from liveavatar.media.ffmpeg import Frame, VideoInfo, probe_video, read_frames, read_video_audio
from liveavatar.quality import identity, moments, motion, sync, sync_windows
from liveavatar.quality.absence import Absence, MeasureUnavailable
from liveavatar.quality.moments import LOCAL_METRICS
from liveavatar.quality.observe import Observer
from liveavatar.quality.tables import Clock, blocks_table, frames_table
from liveavatar.quality.windows import Local
from liveavatar.timing import FPS, SAMPLE_RATE

if TYPE_CHECKING:
    import pandas as pd

AUDIO_METRICS = ("dnsmos_before", "dnsmos_after", "wer_before", "wer_after")
METRICS = (
    *("av_offset_frames", "sync_error_frames", "lip_sync", "silent_lip", "identity_min", "identity_drift"),
    *("texture_psnr", "sharpness_ratio", "flicker", "jerk_index", "motion_energy", "dropped_frames"),
    *("duration_error_s", *AUDIO_METRICS),
)
# Helpers of the verdict, reported beside the contract's keys.
EXTRA_METRICS = (
    *("av_correlation", "openness_range", "silent_openness", "face_share", "repeated_frames", "edge_jump"),
    "track_length_error_s",
    *LOCAL_METRICS,
)
# Seconds below which a measure says nothing: a few words agree by chance, and a living head rests for a second.
SHORTEST = {
    "av_offset_frames": 4,
    **dict.fromkeys(("av_correlation", "sync_error_frames", "lip_sync", "silent_openness"), 3),
    **dict.fromkeys(("openness_range", "silent_lip", "sync_slip", "sync_worst", "motion_energy"), 2),
}


@dataclass(frozen=True, slots=True)
class QualityResult:
    """Measures of one video."""

    metrics: dict[str, float | int | None]  # every name of METRICS and EXTRA_METRICS
    reasons: dict[str, str]  # metric -> why it is None
    absences: dict[str, Absence]  # metric -> what kind of reason that is
    frames: "pd.DataFrame"  # one row a frame
    blocks: "pd.DataFrame"  # one row per block of 12 frames
    video: VideoInfo
    has_speech: bool
    num_faces: int = 1  # in the first picture
    worst_seconds: dict[str, float] = field(default_factory=dict)  # metric -> when it is worst, where that is known


@dataclass(frozen=True, slots=True)
class Watched:
    """Video whose pictures were read; sounds can be measured against it."""

    path: Path
    info: VideoInfo
    observer: Observer


def evaluate_video(
    video: Path,
    portrait: np.ndarray | None,
    audio: np.ndarray | None = None,
    *,
    audio_metrics: Mapping[str, float | None] | None = None,
    block_timings: Sequence[Mapping[str, float]] | None = None,
    threads: int = 1,
    face: int = 0,
    on_progress: Callable[[], None] = lambda: None,
) -> QualityResult:
    """Measure a video.

    Args:
        video: the file.
        portrait: uint8 RGB [H, W, 3] of the person; None leaves identity and texture out.
        audio: the driving sound, float32 mono 16 kHz; None takes the video's own track.
        audio_metrics: numbers of the cleaning stage by the names in `AUDIO_METRICS`.
        block_timings: one mapping a block with `denoise_s`, `decode_s` (seconds), and whatever else is to be kept.
        threads: of the landmark network.
        face: which face of the video (and of the portrait, if it has several), the largest first; 0 the most prominent.
        on_progress: called before every frame.

    Returns:
        metrics, reasons and tables. Takes about 10 ms a frame at 384*256 on two cores.

    Raises:
        InputError: when the video cannot be read.
    """
    watched = watch_video(video, portrait, threads=threads, face=face, on_progress=on_progress)
    return measure_video(watched, audio, audio_metrics=audio_metrics, block_timings=block_timings)


def watch_video(
    video: Path,
    portrait: np.ndarray | None,
    *,
    threads: int = 1,
    face: int = 0,
    on_progress: Callable[[], None] = lambda: None,
) -> Watched:
    """Read the pictures of a video; arguments and errors as of `evaluate_video`."""
    info = probe_video(video)
    observer = Observer(portrait, threads, face)
    seen = observer.watch(_noted(read_frames(video), on_progress))
    if not seen.seconds:
        raise InputError(f"{video} holds no picture that can be decoded; copy or export it again")
    return Watched(video, info, observer)


def measure_video(
    watched: Watched,
    audio: np.ndarray | None = None,
    *,
    audio_metrics: Mapping[str, float | None] | None = None,
    block_timings: Sequence[Mapping[str, float]] | None = None,
) -> QualityResult:
    """Measure a video that was watched; arguments as of `evaluate_video`."""
    observer, info, sound_reason = watched.observer, watched.info, ""
    if audio is None:
        try:
            audio = read_video_audio(watched.path)
        except InputError as e:
            sound_reason = str(e)
    seen = observer.seen
    clock = Clock.of(np.array(seen.seconds))
    speech = sync.Speech.of(np.zeros(0) if audio is None else audio, clock.num_ticks)
    sound = _Sound(audio, speech, clock, sound_reason)
    frames = frames_table(seen, speech, clock)
    metrics, missing, worst_seconds = _measure(observer, sound, info)
    for name in AUDIO_METRICS:
        metrics[name] = (audio_metrics or {}).get(name)
        if metrics[name] is None:
            why = (
                "the sound was not cleaned in this run" if audio_metrics is None else "the cleaning did not measure it"
            )
            missing[name] = MeasureUnavailable(why, Absence.NOT_APPLICABLE)
    return QualityResult(
        metrics={name: plain(metrics[name]) for name in (*METRICS, *EXTRA_METRICS)},
        reasons={name: str(error) for name, error in missing.items()},
        absences={name: error.kind for name, error in missing.items()},
        frames=frames,
        blocks=blocks_table(frames, block_timings or ()),
        video=info,
        has_speech=sound.has_speech,
        num_faces=seen.num_faces,
        worst_seconds=worst_seconds,
    )


def _noted(frames: Iterator[Frame], on_progress: Callable[[], None]) -> Iterator[Frame]:
    for frame in frames:
        on_progress()
        yield frame


@dataclass(frozen=True, slots=True)
class _Sound:
    """Driving sound, or the reason for its absence."""

    audio: np.ndarray | None
    speech: sync.Speech
    clock: Clock
    reason: str

    @property
    def samples(self) -> np.ndarray:
        """The sound, which is there."""
        assert self.audio is not None
        return self.audio

    @property
    def has_speech(self) -> bool:
        return bool(sync.speech_mask(self.speech.envelope_T).sum() >= sync.MIN_SPEECH)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """Computation of one metric, and the parts that it needs."""

    make: Callable[[], float | int | Local]
    needs: tuple[str, ...] = ()  # parts without which the metric is void


FACE = ("face",)
LIPS = ("face", "sound")
COMPARED = ("face", "portrait")
KNOWN = ("face", "identity", "portrait")


def _recipes(observer: Observer, sound: _Sound, info: VideoInfo) -> dict[str, _Recipe]:
    seen = observer.seen
    openness, change = np.array(seen.openness)[sound.clock.frame_of_tick], np.array(seen.change)
    speech, loud = sound.speech, sound.speech.envelope_T
    blank = motion.blank_frames(np.array(seen.luminance), np.array(seen.contrast))

    def compared() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reference = observer.reference
        assert reference is not None
        if reference.embedding is None or not seen.embeddings:
            raise MeasureUnavailable("no face was found in the video", Absence.FAULT)
        alike = moments.comparable(seen)
        return np.stack(seen.embeddings)[alike], np.array(seen.embedding_seconds)[alike], reference.embedding

    def likeness() -> np.ndarray:
        embeddings, _, wanted = compared()
        return embeddings @ wanted

    def dropped() -> int:
        owed = None if sound.audio is None else int(len(sound.audio) / SAMPLE_RATE * info.fps + 1e-6)
        return motion.dropped_frames(np.array(seen.seconds), blank, owed, info.fps)

    def duration_error() -> float:
        assert sound.audio is not None
        return len(seen.seconds) / info.fps - len(sound.audio) / SAMPLE_RATE

    def track_length_error() -> float:
        if info.audio_seconds is None:
            raise MeasureUnavailable("the video has no sound track", Absence.FAULT)
        return info.video_seconds - info.audio_seconds

    return {
        "av_offset_frames": _Recipe(lambda: sync.av_offset(openness, speech).frames, LIPS),
        "av_correlation": _Recipe(lambda: sync.av_offset(openness, speech).correlation, LIPS),
        "sync_error_frames": _Recipe(lambda: sync.sync_error(openness, speech), LIPS),
        "lip_sync": _Recipe(lambda: sync.lip_sync(openness, loud), LIPS),
        "silent_lip": _Recipe(lambda: sync.silent_lip(openness, loud), LIPS),
        "silent_openness": _Recipe(lambda: sync.silent_openness(openness, loud), LIPS),
        "openness_range": _Recipe(lambda: sync.openness_range(openness), FACE),
        "identity_min": _Recipe(lambda: identity.identity_min(*compared()), KNOWN),
        "identity_drift": _Recipe(lambda: identity.identity_drift(*compared()), KNOWN),
        "identity_loss": _Recipe(lambda: moments.identity_loss(likeness()), KNOWN),
        "texture_psnr": _Recipe(lambda: _middle(seen.texture_psnr), COMPARED),
        "sharpness_ratio": _Recipe(lambda: _middle(seen.sharpness_ratio), COMPARED),
        "flicker": _Recipe(lambda: motion.flicker(change)),
        "edge_jump": _Recipe(lambda: motion.edge_jump(change)),
        "repeated_frames": _Recipe(lambda: motion.repeated_frames(change)),
        "jerk_index": _Recipe(lambda: motion.jerk_index(np.stack(seen.anchors)), FACE),
        "motion_energy": _Recipe(lambda: motion.motion_energy(np.array(seen.speed)), FACE),
        "face_share": _Recipe(lambda: float(np.isfinite(seen.openness).mean()), FACE),
        "dropped_frames": _Recipe(dropped),
        "track_length_error_s": _Recipe(track_length_error),
        "duration_error_s": _Recipe(duration_error, ("sound",)),
        "clipped_share": _Recipe(lambda: sync_windows.clipped_share(sound.samples), ("sound",)),
        "muted_s": _Recipe(lambda: sync_windows.muted(openness, sound.samples), LIPS),
        "bars": _Recipe(lambda: moments.bars(seen, observer.reference)),
        **{name: _Recipe(make) for name, make in moments.local_curves(seen).items()},
        **{name: _Recipe(make, FACE) for name, make in moments.face_curves(seen).items()},
        **{name: _Recipe(make, LIPS) for name, make in moments.lip_curves(openness, speech).items()},
        **{name: _Recipe(make, COMPARED) for name, make in moments.portrait_curves(seen, observer.reference).items()},
    }


def _measure(
    observer: Observer, sound: _Sound, info: VideoInfo
) -> tuple[dict[str, Any], dict[str, MeasureUnavailable], dict[str, float]]:
    metrics: dict[str, Any] = {}
    worst_seconds: dict[str, float] = {}
    missing: dict[str, MeasureUnavailable] = {}
    absent = _absent_parts(observer, sound)
    for name, recipe in _recipes(observer, sound, info).items():
        metrics[name] = None
        try:
            for part in recipe.needs:
                if part in absent:
                    raise absent[part]
            if sound.clock.num_ticks < SHORTEST.get(name, 0) * FPS:
                raise MeasureUnavailable(
                    f"the video is too short to tell: this needs {SHORTEST[name]} s", Absence.NOT_APPLICABLE
                )
            value = recipe.make()
            if isinstance(value, Local):
                worst_seconds[name] = round(value.seconds, 2)
                value = value.value
            metrics[name] = value
        except MeasureUnavailable as e:
            missing[name] = e
    return metrics, missing, worst_seconds


def _absent_parts(observer: Observer, sound: _Sound) -> dict[str, MeasureUnavailable]:
    """Map the missing parts to the error that their metrics raise."""
    absent = dict(observer.seen.missing)
    if sound.audio is None:
        absent["sound"] = MeasureUnavailable(sound.reason, Absence.FAULT)
    reference = observer.reference
    wander = float(np.median(observer.seen.wander)) if observer.seen.wander else 0.0
    if reference is not None and "portrait" in absent and "face" not in absent:
        # Landmarks that do not hold on the portrait do not hold on its video either.
        absent["face"] = absent["portrait"]
    elif "face" not in absent and wander > UNSTEADY:
        absent["face"] = MeasureUnavailable(
            f"the video's face cannot be followed: its landmarks wander by {wander:.3f} eye distances "
            f"on still pictures (limit {UNSTEADY})",
            Absence.FAULT,
        )
    return absent


def _middle(column: Sequence[float]) -> float:
    """Compute the median of the finite values: a blink or one bad landmark does not count."""
    values = np.array(column)
    values = values[np.isfinite(values)]
    if not len(values):
        raise MeasureUnavailable("no face was found in the video", Absence.FAULT)
    return float(np.median(values))
