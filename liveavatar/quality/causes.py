"""Cause of a bad verdict in words: what is wrong, from which second, what likely made it, and what to do.

One line leads: that of the first check in `CAUSES` with the worst status, for one fault trips many checks and the
order says which of them names it. The others keep their numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from liveavatar.timing import FPS


@dataclass(frozen=True, slots=True)
class Cause:
    """Meaning of a check that did not pass."""

    check: str
    says: Callable[[float], str]  # from the value
    do: str  # likely cause and the way out


def _late(frames: float) -> str:
    side = "late" if frames > 0 else "early"
    return f"the picture is {abs(frames):.0f} frames ({abs(frames) / FPS:.2f} s) {side} against the sound"


def _said(text: str) -> Callable[[float], str]:
    return lambda value: text.format(value)


_RENDER = "look at that second in the report, and render it again"
CAUSES: tuple[Cause, ...] = (
    Cause("length", _said("the video is too short to judge: {:.2f} s"), "give one of at least 1 s"),
    Cause(
        "collapse", _said("the picture fell apart at {:.0f} s and did not come back; the video ends there"),
        "try another --seed or portrait, or render the rest of the sound as a video of its own",
    ),
    Cause("face_share", _said("a face is seen in {:.0%} of the frames only"), _RENDER),
    Cause("blocks.face_share", _said("only {:.0%} of the blocks show a face"), _RENDER),
    Cause("frames.luminance", _said("only {:.0%} of the frames are neither black nor white"), _RENDER),
    Cause("dropped_frames", _said("{:.0f} frames are missing or blank"), "render it again; was the file cut?"),
    Cause("track_length_error_s", _said("the picture lasts {:+.2f} s longer than the sound track"), "was a track cut?"),
    Cause("duration_error_s", _said("the picture lasts {:+.2f} s longer than its sound"), "was one of them cut?"),
    Cause("still_s", _said("the head stands as still as a photograph for {:.1f} s"), _RENDER),
    Cause("pause_frames", _said("the picture stands still for {:.0f} frames"), _RENDER),
    Cause("repeated_frames", _said("{:.0f} frames in a row repeat one picture"), _RENDER),
    Cause(
        "repeat_share", _said("{:.0%} of the frames repeat the one before"),
        "likely a change of frame rate that doubled frames; keep the video's own 25 frames a second",
    ),
    Cause("muted_s", _said("the sound is switched off for {:.1f} s while the mouth goes on"),
          "likely a drop-out or a gap in the track"),
    Cause(
        "silent_speech", _said("the mouth moves in silence (by {:.3f} eye distances)"),
        "likely the sound was muted or replaced; judge with the sound that drove the video",
    ),
    Cause(
        "av_correlation", _said("these lips do not belong to this sound (they agree to {:.2f} of 1)"),
        "likely another video's sound, or one at another speed; judge with the sound that drove the video",
    ),
    Cause("av_offset_frames", _late, "likely a track was cut or padded at its start; shift the sound by as much"),
    Cause(
        "sync_slip", _said("the sound slips against the lips (elsewhere they agree better by {:.2f})"),
        "likely samples or frames were lost or inserted before; join sound and picture again",
    ),
    Cause("sync_worst", _said("the lips leave the sound for some seconds (agreement {:.2f})"), _RENDER),
    Cause("mouth_still_s", _said("the mouth stands still for {:.1f} s while speech goes on"), _RENDER),
    Cause("openness_range", _said("the mouth hardly moves (by {:.3f} eye distances)"), "is there speech in the sound?"),
    Cause("silent_lip", _said("the mouth moves in silence (by {:.3f} eye distances)"), "was the sound replaced?"),
    Cause("identity_min", _said("the face is not the portrait's (likeness {:.2f}; its own is over 0.8)"), _RENDER),
    Cause("identity_loss", _said("the face moves away from the portrait's (likeness falls by {:.2f})"), _RENDER),
    Cause("identity_drift", _said("the face drifts from the portrait's (likeness {:+.2f} a minute)"), _RENDER),
    Cause("half_likeness", _said("part of the face is covered or broken (a half agrees to {:.2f} of 1)"), _RENDER),
    Cause("bars", _said("bars cover {:.0%} of the picture at a border"), "crop them off; the portrait has none"),
    Cause("stretch", lambda v: f"the face is {abs(v):.0%} {'wider' if v > 0 else 'narrower'} than the portrait's",
          "likely the pixels' shape was lost; scale the picture back"),
    Cause("tilt_deg", _said("the head is tilted by {:+.0f} degrees against the portrait"), "was the picture rotated?"),
    Cause(
        "saturation_ratio", _said("the skin's colour is {:.1f} times as strong as the portrait's"),
        "likely a conversion lost the colours",
    ),
    Cause("warm_shift", lambda v: f"the skin is far {'warmer' if v > 0 else 'colder'} than the portrait's ({v:+.2f})",
          "were red and blue swapped?"),
    Cause("green_shift", lambda v: f"the skin has a {'green' if v > 0 else 'magenta'} cast ({v:+.2f})",
          "no light makes that; likely a conversion of colours"),
    Cause("colour_drift", _said("the colour drifts by {:.0%} of its level"), _RENDER),
    Cause("luma_drift", _said("the light drifts by {:.0f} grey levels"), _RENDER),
    Cause("luma_pulse", _said("the light jumps by {:.0f} grey levels for a frame"), _RENDER),
    Cause("flicker", _said("the picture flickers (steadiness {:.3f})"), _RENDER),
    Cause("flicker_worst", _said("the picture flickers or is noise for a second (steadiness {:.3f})"), _RENDER),
    Cause("sharpness_step", _said("a second is blurred or full of grain ({:.1f} octaves from the rest)"), _RENDER),
    Cause("lattice", _said("the picture is made of squares (order {:.1f})"), "likely a mosaic or low quality"),
    Cause("jerk_worst", _said("the head shakes for a second (jerk {:.1f})"), _RENDER),
    Cause("skin_tints", _said("part of the skin has a colour that the portrait has not (by {:.0f} levels)"), _RENDER),
    Cause("spot_step", _said("spots come and go on the skin (by {:.0f} grey levels)"), _RENDER),
    Cause("spots", _said("the skin has spots that the portrait has not (by {:.0f} grey levels)"), _RENDER),
    Cause("spots_rise", _said("spots come onto the skin (by {:.0f} grey levels)"), _RENDER),
    Cause("sharpness_ratio", lambda v: f"the face is {'blurred' if v < 1 else 'noisy'} ({v:.2f} of the portrait's "
          "detail)", "was the video scaled up or strongly compressed?"),
    Cause("blocks.sharpness_ratio", _said("only {:.0%} of the blocks are as sharp as they should be"), _RENDER),
    Cause("texture_psnr", _said("the skin differs from the portrait's ({:.1f} dB)"), _RENDER),
    Cause("change_pulse", _said("the picture jumps at a fixed distance, {:.1f} times its usual change"),
          "likely key frames of the coder; use a higher quality"),
    Cause("edge_jump", _said("the picture jumps between blocks, {:.1f} times its usual change"), _RENDER),
    Cause("jerk_index", _said("the head trembles ({:.1f}; a live one 1)"), _RENDER),
    Cause("motion_energy", _said("the face moves by {:.2f} eye distances a second"), _RENDER),
    Cause("sync_error_frames", _said("the lips wander by {:.1f} frames around the sound"), _RENDER),
    Cause("lip_sync", _said("the lips follow the sound loosely ({:.2f}; real people 0.25)"), _RENDER),
    Cause("clipped_share", _said("{:.1%} of the sound is clipped"), "record it at a lower level"),
)  # fmt: skip
# Times of lips against sound, which say nothing when the two do not agree at any time.
_TIMES = {"av_offset_frames", "sync_slip", "sync_worst", "sync_error_frames"}
_ORDER = {cause.check: rank for rank, cause in enumerate(CAUSES)}


def headline(
    grades: Mapping[str, str],
    values: Mapping[str, float | None],
    reasons: Mapping[str, str],
    seconds: Mapping[str, float],
) -> str:
    """Say in one line what is wrong with a video; empty when nothing is.

    Args:
        grades: check -> "failed", "warned" or another.
        values: check -> its value.
        reasons: check -> its reason, for what has no value.
        seconds: check -> when it is worst, where that is known.
    """
    bad = {name: grade for name, grade in grades.items() if grade in ("failed", "warned")}
    worst = [name for name, grade in bad.items() if grade == "failed"] or list(bad)
    if not worst:
        return ""
    measured = [name for name in worst if values.get(name) is not None]
    lead = min(measured or worst, key=lambda name: _ORDER.get(name, len(CAUSES)))
    if lead in _TIMES and "av_correlation" in bad and values.get("av_correlation") is not None:
        lead = "av_correlation"
    value = values.get(lead)
    if value is None:
        return f"{lead} cannot be judged: {reasons.get(lead, 'not measured')}"
    when = f" at {seconds[lead]:.1f} s" if lead in seconds else ""
    do = f"; {CAUSES[_ORDER[lead]].do}" if lead in _ORDER else ""
    return f"{words(lead, float(value))}{when}{do}"


def words(check: str, value: float) -> str:
    """Say what a value means that did not pass."""
    return CAUSES[_ORDER[check]].says(value) if check in _ORDER else f"{check} is {value:.4g}"
