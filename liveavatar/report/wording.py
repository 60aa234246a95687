"""Words of the report page: measures, checks and timings as a producer calls them, and numbers as one reads them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from liveavatar.timing import FPS

VERDICTS = {
    "passed": "Good to publish: nothing stands out.",
    "warned": "Look at it before you publish: something is at the edge of what is good.",
    "failed": "Do not publish as it is: something is wrong that viewers will notice.",
}


def number(value: Any) -> str:
    """Format a value: three significant digits, whole from 100 on; a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "-"
        if abs(value) >= 100:
            return f"{value:.0f}"
        text = f"{value:.3g}"
        return f"{value:.6f}".rstrip("0") if "e" in text else text
    return str(value)


def _frames(value: float) -> str:
    """Format a time in frames also in milliseconds."""
    shown = round(abs(value), 1)
    frames = f"{shown:g} frame{'' if shown == 1 else 's'}"
    return frames if not value else f"{frames} ({abs(value) / FPS * 1000:.0f} ms)"


def _offset(value: float) -> str:
    """Format the time of the picture against the sound."""
    return "in time" if not value else f"{_frames(abs(value))} {'late' if value > 0 else 'early'}"


def _percent(value: float) -> str:
    digits = 1 if 0.99 < value < 1 else 0
    return f"{100 * value:.{digits}f} %"


def _seconds(value: float) -> str:
    return f"{number(float(value))} s"


def _milliseconds(value: float) -> str:
    return f"{number(value / 1000)} s" if value >= 1000 else f"{value:.0f} ms"


@dataclass(frozen=True, slots=True)
class Wording:
    """A measure in words."""

    title: str
    fault: str = ""  # sentence when the check on it warns or fails
    show: Callable[[float], str] = number


MEASURES: Mapping[str, Wording] = {
    "av_offset_frames": Wording("Lips against the sound", "The lips are early or late throughout.", _offset),
    "sync_error_frames": Wording("Lips, two seconds at a time", "The lips come and go with the sound.", _frames),
    "av_correlation": Wording("Mouth follows the voice", "The mouth does not follow this voice.", _percent),
    "lip_sync": Wording(
        "Mouth opens as wide as the voice is loud", "The mouth opens too much or too little for what is said."
    ),
    "openness_range": Wording("Mouth movement", "The mouth hardly moves."),
    "silent_lip": Wording("Lips at rest in pauses", "The lips move although nothing is said."),
    "silent_openness": Wording("Mouth shut in pauses", "The mouth stays open although nothing is said.", _percent),
    "identity_min": Wording("Likeness, worst second", "The face stops looking like the portrait.", _percent),
    "identity_drift": Wording("Likeness, change a minute", "The face turns into somebody else as time goes on."),
    "texture_psnr": Wording("Skin against the portrait, dB", "The skin has blotches or a pattern."),
    "sharpness_ratio": Wording("Sharpness against the portrait", "The face is soft or noisy.", _percent),
    "flicker": Wording("Steadiness", "The picture flickers.", _percent),
    "jerk_index": Wording("Smoothness of the head", "The head trembles."),
    "motion_energy": Wording("Liveliness", "The head is frozen, or moves wildly."),
    "repeated_frames": Wording("Longest standstill", "The picture stands still.", _frames),
    "edge_jump": Wording("Joints of the blocks", "The picture jumps every 0.48 s."),
    "dropped_frames": Wording("Missing frames", "Frames are missing."),
    "duration_error_s": Wording("Length against the sound", "Picture and sound have different lengths.", _seconds),
    "track_length_error_s": Wording(
        "Picture track against sound track", "Picture and sound end at different times.", _seconds
    ),
    "face_share": Wording("Face in view", "The face is lost at times.", _percent),
    "length": Wording("Length", "The video is too short to judge.", _seconds),
    "pause_frames": Wording("Longest pause of the picture", "The picture stands still.", _frames),
    "repeat_share": Wording("Repeated frames, worst two seconds", "Single frames are shown twice.", _percent),
    "still_s": Wording("Longest time without any motion", "The face stands as still as a photograph.", _seconds),
    "mouth_still_s": Wording("Longest speech with a still mouth", "The mouth stops while speech goes on.", _seconds),
    "silent_speech": Wording("Mouth movement in silence, worst second", "The mouth speaks although nothing is said."),
    "sync_slip": Wording("Lips fit another moment of the sound better", "The sound slips against the lips."),
    "sync_worst": Wording("Mouth follows the voice, worst four seconds", "The lips leave the sound.", _percent),
    "clipped_share": Wording("Clipped sound", "The sound is clipped and crackles.", _percent),
    "luma_pulse": Wording("Jump of the light, grey levels", "The light jumps for a frame."),
    "luma_drift": Wording("Drift of the light, grey levels", "The picture becomes lighter or darker."),
    "change_pulse": Wording("Jumps at a fixed distance", "The picture jumps again and again."),
    "green_shift": Wording("Green against the portrait", "The skin is green or magenta."),
    "warm_shift": Wording("Warmth against the portrait", "The skin is far too red or too blue."),
    "saturation_ratio": Wording("Colour against the portrait", "The colours are lost or glaring.", _percent),
    "colour_drift": Wording("Drift of the colour", "The colours change as time goes on.", _percent),
    "spot_step": Wording("Spots that come and go, grey levels", "Spots come and go on the skin."),
    "spots": Wording("Spots against the portrait, grey levels", "The skin has spots that the portrait has not."),
    "spots_rise": Wording("Spots that come, grey levels", "Spots come onto the skin."),
    "half_likeness": Wording("Likeness of the less alike half", "Part of the face is covered or broken.", _percent),
    "stretch": Wording("Width against the portrait", "The face is stretched."),
    "tilt_deg": Wording("Tilt against the portrait, degrees", "The picture is rotated."),
    "bars": Wording("Bars at the border", "The picture has bars that the portrait has not.", _percent),
    "lattice": Wording("Squares in the picture", "The picture is made of squares."),
    "skin_tints": Wording("Foreign colours on the skin", "The skin has colours that the portrait has not."),
    "flicker_worst": Wording("Steadiness of the worst second", "The picture flickers for a second."),
    "jerk_worst": Wording("Trembling in the worst second", "The head shakes for a second."),
    "sharpness_step": Wording("Sharpness of a second against the rest", "A second is blurred or grainy."),
    "muted_s": Wording("Sound switched off", "The sound is switched off while the mouth goes on.", _seconds),
    "identity_loss": Wording("Likeness lost from start to end", "The face moves away from the portrait's."),
    "frames.luminance": Wording("Brightness of every frame", "Frames are black or white.", _percent),
    "frames.openness": Wording("Mouth shape of every frame", "The mouth has impossible shapes.", _percent),
    "blocks.face_share": Wording("Face in every half second", "The face is lost at times.", _percent),
    "blocks.identity": Wording("Likeness in every half second", "The face stops looking like the portrait.", _percent),
    "blocks.sharpness_ratio": Wording("Sharpness in every half second", "The face is washed out at times.", _percent),
    "dnsmos_before": Wording("Sound before cleaning, of 5"),
    "dnsmos_after": Wording("Sound after cleaning, of 5", "Cleaning made the sound worse."),
    "wer_before": Wording("Words misheard before cleaning", "", _percent),
    "wer_after": Wording("Words misheard after cleaning", "Cleaning made words harder to hear.", _percent),
}
TIMINGS: Mapping[str, Wording] = {
    "ttff_s": Wording("to the first picture", show=_seconds),
    "fps": Wording("frames rendered a second (25 are played)"),
    "ms_per_frame": Wording("for a frame", show=_milliseconds),
    "block_ms_p50": Wording("for half a second of video, usually", show=_milliseconds),
    "block_ms_p99": Wording("for half a second of video, at worst", show=_milliseconds),
    "deadline_misses": Wording("half seconds too late to be shown live"),
    "load_s": Wording("to load the model", show=_seconds),
    "total_s": Wording("in all", show=_seconds),
    "cached_tasks": Wording("of 8 steps were known from before"),
    "live_delay_ms_p50": Wording("from sound to picture, usually", show=_milliseconds),
    "live_delay_ms_max": Wording("from sound to picture, at worst", show=_milliseconds),
}
TECHNICAL: Mapping[str, str] = {
    "sha256": "digest",
    "peak_rss_mb": "memory of the computer at most, MB",
    "peak_gpu_mb": "memory of the GPU at most, MB",
    "ttff_s": "s to the first picture",
    "fps": "frames/s",
    "kv_cache_dtype": "format of keys and values",
    "per_gpu_gb": "GB on each GPU",
    "latents_sha256": "digest of the latents",
    "dtype": "number format",
}


def title(name: str) -> str:
    """Name a measure or check."""
    return MEASURES[name].title if name in MEASURES else plain_name(name)


def fault(name: str) -> str:
    """Say what viewers see when a check warns or fails; "" when nothing is known."""
    return MEASURES[name].fault if name in MEASURES else ""


def value_of(name: str, value: Any) -> str:
    """Format the value of a measure or check."""
    known = MEASURES.get(name)
    return known.show(value) if known is not None and _is_number(value) else number(value)


def timing(name: str, value: Any) -> tuple[str, str]:
    """Return value and name of a timing."""
    known = TIMINGS.get(name)
    if known is None:
        return number(value), plain_name(name)
    return (known.show(float(value)) if _is_number(value) and known.show is not number else number(value)), known.title


def plain_name(name: str) -> str:
    """Write a dotted name of the report in words."""
    return ", ".join(TECHNICAL.get(part, part.replace("_", " ")) for part in name.split("."))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
