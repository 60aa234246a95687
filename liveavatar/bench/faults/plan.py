"""Table of the planted faults: name, strengths, and the function that plants each.

The strengths are such that a person sees or hears the fault at once, except those listed in `SLIGHT`, which a person
sees only on looking for them; those are planted too, but do not count against the verdict.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from liveavatar.bench.faults import brief, picture, sound

PICTURE: dict[str, tuple[picture.Planted, tuple[float, ...]]] = {
    "picture stands still from": (picture.freeze, (0.5, 0.75)),
    "picture stands still under grain from": (picture.freeze_with_grain, (0.5, 0.75)),
    "stall of frames": (picture.stall, (6, 15)),
    "repeated every n-th frame": (picture.repeat, (2, 5)),
    "frames inserted": (picture.insert, (12,)),
    "shuffled within frames": (picture.shuffle, (2, 12)),
    "pictures backwards": (picture.backwards, (1,)),
    "mouth stops from": (picture.mouth_stops, (0.0, 0.5)),
    "another person from": (picture.other_person, (0.5, 0.9)),
    "morph into another person to": (picture.morph, (0.5, 1.0)),
    "flicker": (picture.flicker, (3, 8, 20)),
    "pulse every tenth frame": (picture.pulse, (15, 40)),
    "one flash": (picture.one_flash, (40,)),
    "light drifts by": (picture.light_drifts, (-60, 80)),
    "light steps at blocks by": (picture.light_steps, (10,)),
    "pulse at key frames": (picture.key_frames, (1.0, 2.0)),
    "shift at blocks": (picture.block_jump, (1, 3)),
    "jitter": (picture.jitter, (1, 2)),
    "green": (picture.tint, (25, 60)),
    "magenta": (picture.magenta, (40,)),
    "green grows to": (picture.tint_grows, (60,)),
    "colour lost": (picture.grey, (1.0,)),
    "red and blue swapped": (picture.swap_channels, (1,)),
    "mosaic": (picture.mosaic, (3, 6)),
    "blotches": (picture.blotches, (25, 60)),
    "patches": (picture.patches, (20, 45)),
    "patches in the last third": (picture.late_patches, (45,)),
    "blur": (picture.blur, (1, 3)),
    "blur grows to": (picture.blur_grows, (3,)),
    "blur in the last quarter": (picture.late_blur, (3,)),
    "noise": (picture.noise, (25,)),
    "black frames": (picture.black, (1, 3)),
    "upside down": (picture.upside_down, (1,)),
    "half the face covered from": (picture.cover_side, (0.0, 0.6)),
    "mouth covered from": (picture.cover_mouth, (0.0, 0.6)),
    "face gone from": (picture.face_leaves, (0.8,)),
    "stretched": (picture.stretch, (0.87, 1.15)),
    "rotated by degrees": (picture.tilt, (-20, 20)),
    "letterbox": (picture.letterbox, (0.1,)),
    "a second of noise": (brief.noise_for_a_second, (30,)),
    "a second of blur": (brief.blur_for_a_second, (2.5,)),
    "a second of mosaic": (brief.mosaic_for_a_second, (6,)),
    "a second of bars": (brief.bars_for_a_second, (0.1,)),
    "a second of shaking": (brief.shaking_for_a_second, (3,)),
    "logo on the cheek": (brief.logo, (0.5,)),
    "white bar on the chin": (brief.chin_patch, (0.8,)),
    "few levels of colour": (brief.few_levels, (4,)),
}
SOUND: dict[str, tuple[sound.Heard, tuple[float, ...]]] = {
    "sound late by frames": (sound.shift, (8, 4)),
    "sound early by frames": (sound.shift, (-3, -6)),
    "another video's sound": (sound.other, (1,)),
    "sound at tempo": (sound.tempo, (0.95, 1.05)),
    "sound backwards": (sound.backwards, (1,)),
    "second half late by": (sound.slip, (0.24, 0.48, 2.0)),
    "sound cut by": (sound.cut, (0.3, 1.0)),
    "silence from": (sound.silent, (0.0, 0.5)),
    "switched off for": (sound.switched_off, (1.0, 1.5)),
    "white noise": (sound.white, (1,)),
    "clipped by dB": (sound.clipped, (12, 26)),
}
SLIGHT = {
    ("flicker", 3),
    ("stall of frames", 6),
    ("blur", 1),
    ("jitter", 1),
    ("pulse at key frames", 1.0),
    ("sound late by frames", 4),
}
SEEN_VIDEOS = {"00", "01", "02", "04", "05", "06"}  # clips of the evaluation split by which limits were set
# Kinds on which no limit was set.
HELD_OUT = {
    *("magenta", "one flash", "light steps at blocks by", "mouth covered from", "frames inserted", "blur grows to"),
    *("colour lost", "shuffled within frames", "face gone from", "upside down", "morph into another person to"),
    *("black frames", "sound at tempo", "sound cut by", "sound backwards", "green grows to", "white noise"),
}


# A short bench for every day: one fault of each kind of measure.
QUICK = {
    "picture stands still from 0.5",
    "mosaic 6",
    "green 60",
    "second half late by 0.48",
    "silence from 0",
    "clipped by dB 26",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault at one strength."""

    name: str
    strength: float
    in_sound: bool

    @property
    def slight(self) -> bool:
        """Tell a fault that a person sees only on looking for it."""
        return (self.name, self.strength) in SLIGHT

    def __str__(self) -> str:
        return f"{self.name} {self.strength:g}"


def faults() -> Iterator[Fault]:
    """List every fault at every strength."""
    for in_sound, table in ((False, PICTURE), (True, SOUND)):
        for name, (_, strengths) in table.items():
            yield from (Fault(name, strength, in_sound) for strength in strengths)
