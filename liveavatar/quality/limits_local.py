"""Limits of the local measures (see `moments`): what may last a moment, and what must not last even that.

"Good videos" are those of the fault bench: the true videos of the evaluation split and renders of the embedded model,
as they are, coded strongly, smaller and larger. "Planted" are its faults.
"""

from liveavatar.media import clipping
from liveavatar.quality.limit import Limit

LOCAL_LIMITS: tuple[Limit, ...] = (
    Limit(
        name="pause_frames", good=(None, 4), tolerable=(None, 9),
        source="good videos 0 to 2, coded at crf 30 up to 4; a stall of 10 frames (0.4 s) is seen by all",
    ),
    Limit(
        name="repeat_share", good=(None, 0.09), tolerable=(None, 0.15),
        source="good videos up to 0.06, coded strongly; every fifth frame repeated 0.2",
    ),
    Limit(
        name="still_s", good=(None, 0.8), tolerable=(None, 1.0),
        source="good videos up to 0.6 s; a photograph, grain or not, as long as it lasts",
    ),
    Limit(
        name="mouth_still_s", good=(None, 0.9), tolerable=(None, 1.2), speech_only=True,
        source="good videos up to 0.8 s",
    ),
    Limit(
        name="silent_speech", good=(None, 0.042), tolerable=(None, 0.052),
        source="real people 0.026 (THEval); good videos up to 0.034; a mouth that speaks 0.057 to 0.09",
    ),
    Limit(
        name="sync_slip", good=(None, 0.08), tolerable=(None, 0.15), speech_only=True,
        source="good videos under 0; a slip of a quarter of a second 0.19 and more",
    ),
    Limit(
        name="sync_worst", good=(0.30, None), tolerable=(0.20, None), speech_only=True,
        source="good videos over 0.4; wrong sound 0.2 in the median",
    ),
    Limit(
        name="clipped_share", good=(None, clipping.HEARD), tolerable=(None, 0.08),
        source="speech 0.002 to 0.01; clipped by 12 dB 0.1",
    ),
    Limit(
        name="luma_pulse", good=(None, 4.0), tolerable=(None, 6.0),
        source="good videos up to 1 grey level, a dim one 3.4; a pulse of 15 reads 15",
    ),
    Limit(
        name="luma_drift", good=(None, 10.0), tolerable=(None, 20.0),
        source="good videos up to 4 grey levels: heads move",
    ),
    Limit(
        name="change_pulse", good=(None, 1.7), tolerable=(None, 2.3),
        source="good videos up to 1.5; a shift by one pixel at every block 2.7",
    ),
    Limit(
        name="green_shift", good=(-0.08, 0.08), tolerable=(-0.11, 0.11),
        source="good videos within 0.03; green by 25 levels 0.12 to 0.2",
    ),
    Limit(
        name="warm_shift", good=(-0.45, 0.45), tolerable=(-0.65, 0.65),
        source="warm and cold light in prompts within 0.3; red and blue swapped -0.8",
    ),
    Limit(
        name="saturation_ratio", good=(0.5, 1.8), tolerable=(0.3, 2.5),
        source="good videos 0.8 to 1.2; grey 0",
    ),
    Limit(
        name="colour_drift", good=(None, 0.08), tolerable=(None, 0.15),
        source="good videos up to 0.03",
    ),
    Limit(
        name="spot_step", good=(None, 20.0), tolerable=(None, 23.0),
        source="good videos up to 19 grey levels; blotches of 25 read 25",
    ),
    Limit(
        name="spots", good=(None, 48.0), tolerable=(None, 70.0),
        source="good videos up to 45 grey levels, where the model lights a face anew",
    ),
    Limit(
        name="spots_rise", good=(None, 15.0), tolerable=(None, 22.0),
        source="good videos up to 12 grey levels; patches of 45 that come 17 to 25",
    ),
    Limit(
        name="half_likeness", good=(0.80, None), tolerable=(0.60, None),
        source="good videos over 0.85; patches of 45 on the cheeks 0.67 to 0.76, a covered face under 0.56",
    ),
    Limit(
        name="stretch", good=(-0.08, 0.08), tolerable=(-0.11, 0.11),
        source="good videos within 0.04; a stretch by 15 % reads 0.14",
    ),
    Limit(
        name="tilt_deg", good=(-9.0, 9.0), tolerable=(-14.0, 14.0),
        source="good videos within 3 degrees",
    ),
    Limit(
        name="bars", good=(None, 0.02), tolerable=(None, 0.04),
        source="the picture has none that the portrait has not",
    ),
    Limit(
        name="lattice", good=(None, 0.75), tolerable=(None, 0.9),
        source="good videos up to 0.3, a second of H.264 at crf 30 up to 0.71; a mosaic of three pixels over 1",
    ),
    Limit(
        name="skin_tints", good=(None, 13.0), tolerable=(None, 16.0),
        source="levels; good videos up to 6, in strongly warmer or darker light 12; a logo or a grey patch 18 and more",
    ),
    Limit(
        name="flicker_worst", good=(0.955, None), tolerable=(0.935, None),
        source="as flicker, in the worst second; good videos over 0.98; noise of 30 grey levels for a second 0.9",
    ),
    Limit(
        name="jerk_worst", good=(None, 3.5), tolerable=(None, 6.0),
        source="good videos up to 1.1; a second shaken by up to 4 pixels 8",
    ),
    Limit(
        name="sharpness_step", good=(None, 0.35), tolerable=(None, 0.55),
        source="octaves; good videos up to 0.12; a second blurred by 2.5 pixels 0.9",
    ),
    Limit(
        name="muted_s", good=(None, 0.5), tolerable=(None, 0.8), speech_only=True,
        source="good videos 0: where their sound is digital silence, the mouth rests or the voice had faded",
    ),
    Limit(
        name="identity_loss", good=(None, 0.08), tolerable=(None, 0.15),
        source="good videos up to 0.04; a blend to half of another person 0.2",
    ),
)  # fmt: skip
