"""Configuration of models: dimensions of the networks, facts that other rooms act on, presets, `config.json`.

The 14B and the embedded `mini` are two values of the same classes. No other module holds a model's dimensions.

Shape letters used across the engine: B batch, L tokens, S tokens of one latent frame, D model width,
N heads, H head width, T latents or frames, C latent channels, h/w latent height/width, K audio tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args, get_origin

from liveavatar.errors import CheckpointError, InputError
from liveavatar.files import parse_json

FRAME_FACE, FRAME_CENTRE = "face", "centre"  # how a portrait is cropped to the video
LISTED_SIZES, ANY_SIZE = "listed", "any"  # which sizes a model was trained for
HEAD_ANGLES, SKELETON_VIDEO = "angles", "skeleton"  # content of a pose latent
MAX_NUMBER = 1_000_000  # of a network; a larger one in a file is damage, or asks for more memory than there is
MAX_COUNT = 1_000  # of layers, heads and the like
FROM_CAMERA, FROM_PORTRAIT = "camera", "portrait"  # zero of a model's head angles, see `liveavatar.pose`


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTConfig:
    """Dimensions and behaviour of the causal speech-to-video diffusion transformer."""

    dim: int  # model width D
    num_heads: int
    num_layers: int
    ffn_dim: int
    in_dim: int  # latent channels C
    out_dim: int
    cond_dim: int  # channels of the pose latent, see `liveavatar.pose.track`
    freq_dim: int  # width of the timestep sinusoid
    text_dim: int  # width of the text encoder's output
    text_len: int  # rows the text is zero-padded to
    audio_dim: int  # width of one speech feature
    audio_layers: int  # hidden states of the speech encoder that are mixed
    num_audio_token: int  # audio tokens per latent, one learned padding token excluded
    audio_inject_layers: tuple[int, ...]
    audio_prefix_frames: int  # copies of a block's first feature frame put before it (fake history)
    audio_history_frames: int  # true feature frames before the block; one of the two is zero
    audio_norm: bool = False  # layer-norm each speech feature frame before the hidden states are mixed
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    motion_latents: int = 19  # latents the motion packer sees: 1 + 2 + 16
    window_latents: int = 12  # self-attention ring, the current block included
    ref_base: int = 30  # smallest temporal position of the reference
    ref_distance: tuple[int, int] = (4, 30)  # range of the reference's distance ahead of the block
    anchor_motion: bool = False  # motion tokens move along with the block instead of staying at the start
    rope_half: bool = False  # round cos/sin to fp16, as the released code does

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig:
    """Dimensions of the causal video autoencoder."""

    kind: str  # "wan": 3-D convolutions, 8x8x4; "compact": 2-D with temporal memory, 16x16x4
    z_dim: int  # latent channels C
    spatial_stride: int
    encoder_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    mean: tuple[float, ...]  # per-channel normalisation of the latent, z = (mu - mean) / std
    std: tuple[float, ...]
    num_res_blocks: int = 2
    decoder_blocks: tuple[int, ...] = ()  # compact: of the decoder's stages, coarse to fine; () = num_res_blocks each
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    prime_latents: int = 7  # still latents that warm the streaming decoder before the first block
    reference_width: int = 0  # compact: of the branch that copies from the portrait, see `vae_reference`; 0 = none
    output_sharpen: float = 0.0  # compact: strength of an unsharp mask on decoded frames, against mean pictures' blur

    @property
    def has_fast_form(self) -> bool:
        """True when `liveavatar.fast` decodes with kernels of its own and records them."""
        return self.kind == "wan"

    @property
    def last_level_stride(self) -> int:
        """Pixels a side of one value of the decoder's last level."""
        return 1 if self.kind == "wan" else 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """Kind and dimensions of the prompt encoder."""

    kind: str  # "umt5" through transformers, or "hash": our small encoder over hashed words
    dim: int
    length: int  # tokens kept
    vocab: int = 0  # hash buckets
    num_layers: int = 0
    num_heads: int = 0

    @property
    def resident(self) -> bool:
        """True when the encoder stays in memory with the model; one of transformers runs once a prompt and is freed."""
        return self.kind == "hash"

    @property
    def words_read(self) -> int | None:
        """Words of a prompt that our small encoder reads; None for an encoder that counts tokens of its own."""
        return self.length if self.resident else None


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechConfig:
    """Speech encoder of the driving features."""

    kind: str  # "whisper": encoder states of a Whisper model, "wav2vec2" through transformers
    name: str  # e.g. "tiny.en"
    num_states: int  # hidden states kept, embedding output included
    dim: int  # width of one feature frame at 25 fps
    window_seconds: float = 3.0  # audio the encoder sees for one block; wav2vec2 sees a file as a whole
    lookahead_seconds: float = 0.16  # of which after the block's end
    shifts: tuple[int, ...] = (0,)  # samples by which the window is moved; features are the mean over all
    tuning: str = ""  # file in the model directory that corrects the encoder's weights; empty: they are as published


SWITCHES = ("reanchor", "pose_guided", "lids_conditioned", "gaze_conditioned")

# Facts of a model that other rooms act on, with their values.
FACTS: dict[str, tuple[Any, ...]] = {
    "size_rule": (LISTED_SIZES, ANY_SIZE),
    "framing": (FRAME_FACE, FRAME_CENTRE),
    "pose_input": (HEAD_ANGLES, SKELETON_VIDEO),
    **dict.fromkeys(("needs_gpu", "fast_path", "has_kv_choice", "spreads"), (False, True)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """One model: its networks, its sampler, and the sizes it was trained for."""

    name: str
    dit: DiTConfig
    vae: VAEConfig
    text: TextConfig
    speech: SpeechConfig
    sigmas: dict[int, tuple[float, ...]]  # noise levels per number of steps, high to low, terminal 0 excluded
    areas: tuple[tuple[int, int], ...]  # (width, height) to choose from, the default first; only the product counts
    size_multiple: int  # sides are multiples of this many pixels
    size_rule: str  # LISTED_SIZES: exactly `areas`; ANY_SIZE: the released rule, the picture's aspect at any area
    framing: str  # FRAME_FACE: the face is put where training had it; FRAME_CENTRE: the centre of the picture is kept
    pose_input: str  # HEAD_ANGLES: see `liveavatar.pose.track`; SKELETON_VIDEO: latents of a drawn DWPose skeleton
    needs_gpu: bool  # too large for a CPU
    fast_path: bool  # GPUs run the kernels of `liveavatar.fast` without being asked for fp8 or offload
    has_kv_choice: bool  # keys and values can be kept in another dtype than computed in (--kv_cache_dtype)
    spreads: bool  # gains from denoise steps on several GPUs; --placement auto considers it
    reanchor: bool = False  # from the second clip on, the first generated latent is the reference
    pose_guided: bool = False  # trained with head pose (`liveavatar.pose`); without, pose latents have no effect
    pose_origin: str = FROM_CAMERA  # FROM_PORTRAIT: the transformer gets angles minus those of the portrait's head
    # Degrees of yaw, pitch, roll (counted from `pose_origin`) that training held, see `liveavatar.pose`; (): no limit
    pose_limits: tuple[float, ...] = ()
    lids_conditioned: bool = False  # trained with lid closure (`liveavatar.pose.blinks`), which it then needs always
    gaze_conditioned: bool = False  # the same for the direction of the eyes; only with `lids_conditioned`

    @property
    def default_area(self) -> tuple[int, int]:
        """(width, height) whose product is the video's area when no size is given."""
        return self.areas[0]

    def runs_fast(self, *, fp8: bool, offload: bool) -> bool:
        """Tell if the model takes the fast path on a GPU: by its nature, or because an option needs it.

        Args:
            fp8: linear layers in 8 bits.
            offload: layers of the transformer wait in host memory.
        """
        return self.fast_path or fp8 or offload

    def to_json(self) -> str:
        """Serialise as the `config.json` of a model directory."""
        raw = asdict(self)
        for part, name in (("vae", "reference_width"), ("vae", "output_sharpen"), ("speech", "tuning")):
            if not raw[part][name]:  # so that versions without it read the config, too
                del raw[part][name]
        return json.dumps({"model_type": "live-avatar", **raw}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "ModelConfig":
        """Parse a `config.json` made by `to_json`.

        Raises:
            CheckpointError: when the text is no such config.
        """
        try:
            raw: dict[str, Any] = parse_json(text)
            raw.pop("model_type")
            unknown = sorted(raw.keys() - {f.name for f in fields(cls)})
            if unknown:  # never ignored: a condition that is left out makes another video
                raise ValueError(f"unknown settings {', '.join(unknown)}: it was made by another version")
            missing = [name for name in FACTS if name not in raw]
            if missing:  # never guessed: a wrong framing or placement would pass unnoticed
                raise ValueError(f"it was made before {', '.join(missing)} were settings; export the model again")
            model = cls(
                name=raw["name"],
                dit=DiTConfig(**typed_fields(DiTConfig, raw["dit"])),
                vae=VAEConfig(**typed_fields(VAEConfig, raw["vae"])),
                text=TextConfig(**typed_fields(TextConfig, raw["text"])),
                speech=SpeechConfig(**typed_fields(SpeechConfig, raw["speech"])),
                sigmas={int(n): tuple(s) for n, s in raw["sigmas"].items()},
                areas=tuple((w, h) for w, h in raw["areas"]),
                size_multiple=raw["size_multiple"],
                **{name: _choice(name, raw[name], choices) for name, choices in FACTS.items()},
                reanchor=raw["reanchor"],
                pose_guided=raw.get("pose_guided", False),
                pose_origin=raw.get("pose_origin", FROM_CAMERA),
                pose_limits=_pose_limits(raw.get("pose_limits", [])),
                lids_conditioned=raw.get("lids_conditioned", False),
                gaze_conditioned=raw.get("gaze_conditioned", False),
            )
            scalars = ("name", "areas", "size_multiple", *SWITCHES)
            typed_fields(cls, {name: getattr(model, name) for name in scalars})
            if not model.areas:
                raise ValueError("areas is empty")
            typed_fields(_Schedules, {"sigmas": tuple(model.sigmas.values())})
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise CheckpointError(
                f"config.json is no Live Avatar model config ({type(e).__name__}: {e}); "
                "point --model at a directory made by `liveavatar models fetch` or by training"
            ) from e
        if model.pose_origin not in (FROM_CAMERA, FROM_PORTRAIT):
            raise CheckpointError(
                f"config.json counts head angles from {model.pose_origin!r}, and this version knows "
                f"pose_origin {FROM_CAMERA!r} and {FROM_PORTRAIT!r}; use a newer version, or another model"
            )
        return model


@dataclass(frozen=True, slots=True)
class _Schedules:
    """Type of the noise levels in a file."""

    sigmas: tuple[tuple[float, ...], ...]


def _choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, and this version knows {', '.join(map(repr, choices))}")
    return value


def _pose_limits(values: Any) -> tuple[float, ...]:
    limits: tuple[float, ...] = typed_fields(ModelConfig, {"pose_limits": values})["pose_limits"]
    if limits and (len(limits) != 3 or min(limits) <= 0):
        raise ValueError(f"pose_limits is {values!r}; it is three positive angles in degrees, or empty")
    return limits


def typed_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn lists from JSON to tuples and check all values against the types of a dataclass's fields.

    Raises:
        ValueError: a value is of another type, or larger than any network's.
    """
    kinds = {f.name: f.type for f in fields(cls)}
    typed = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in typed.items():
        limit = MAX_COUNT if name.startswith("num_") or name.endswith("_blocks") else MAX_NUMBER
        if name in kinds and not _fits(value, kinds[name], limit):
            raise ValueError(f"{name} is {value!r}, and no {cls.__name__} has that")
    return typed


def _fits(value: Any, kind: Any, limit: int) -> bool:
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, tuple) or (kinds[-1] is not Ellipsis and len(kinds) != len(value)):
            return False
        return len(value) <= MAX_COUNT and all(_fits(v, kinds[0], limit) for v in value)
    if kind is float:
        return type(value) in (int, float) and abs(value) <= limit
    if kind is int:
        return type(value) is int and abs(value) <= limit
    return type(value) is kind


def shifted_sigmas(num_steps: int, shift: float = 3.0, passes: int = 1, last: float | None = None) -> tuple[float, ...]:
    """Compute noise levels of a flow-matching schedule whose time is warped by s -> shift*s / (1 + (shift-1)*s).

    Args:
        num_steps: 1 to 8.
        shift: strength of the warp towards high noise.
        passes: how often the warp is applied to the evenly spaced levels.
        last: lowest of the evenly spaced levels; 1/num_steps when None.

    Returns:
        `num_steps` levels from 1.0 downwards; the terminal 0 is not included.
    """
    low = 1.0 / num_steps if last is None else last
    levels = [1.0 + (low - 1.0) * i / max(1, num_steps - 1) for i in range(num_steps)]
    for _ in range(passes):
        levels = [shift * s / (1 + (shift - 1) * s) for s in levels]
    return tuple(levels)


# The released sampler warps twice: sigma_min is itself a warped 1/1000, then the spaced list is warped.
_RELEASED_MIN = 3 * 0.001 / (1 + 2 * 0.001)
RELEASED_SIGMAS = {n: shifted_sigmas(n, 3.0, 1, _RELEASED_MIN) for n in range(1, 9)}

WAN_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)

LIVE_AVATAR_14B = ModelConfig(
    name="live-avatar-14b",
    dit=DiTConfig(
        dim=5120, num_heads=40, num_layers=40, ffn_dim=13824, in_dim=16, out_dim=16, cond_dim=16,
        freq_dim=256, text_dim=4096, text_len=512, audio_dim=1024, audio_layers=25, num_audio_token=4,
        audio_inject_layers=(0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39),
        audio_prefix_frames=73, audio_history_frames=0,
    ),
    vae=VAEConfig(
        kind="wan", z_dim=16, spatial_stride=8, encoder_widths=(96, 192, 384, 384),
        decoder_widths=(384, 384, 192, 96), mean=WAN_MEAN, std=WAN_STD,
    ),
    text=TextConfig(kind="umt5", dim=4096, length=512),
    speech=SpeechConfig(
        kind="wav2vec2", name="wav2vec2-large-xlsr-53-english", num_states=25, dim=1024,
        window_seconds=8.0, lookahead_seconds=0.32,
    ),
    sigmas=RELEASED_SIGMAS,
    areas=(
        *((688, 368), (720, 1280), (1280, 720), (480, 832), (832, 480), (704, 1280), (1280, 704)),
        *((1024, 704), (704, 1024), (720, 400), (704, 384), (384, 256)),
    ),
    size_multiple=64,
    size_rule=ANY_SIZE,
    framing=FRAME_CENTRE,
    pose_input=SKELETON_VIDEO,
    needs_gpu=True,
    fast_path=True,
    has_kv_choice=True,
    spreads=True,
    reanchor=True,
)  # fmt: skip

MINI = ModelConfig(
    name="mini",
    dit=DiTConfig(
        dim=256, num_heads=4, num_layers=8, ffn_dim=1024, in_dim=32, out_dim=32, cond_dim=7,
        freq_dim=256, text_dim=128, text_len=32, audio_dim=768, audio_layers=5, num_audio_token=4,
        audio_inject_layers=(0, 2, 4, 6), audio_prefix_frames=0, audio_history_frames=9,
        ref_base=0, ref_distance=(6, 6), anchor_motion=True, audio_norm=True,
    ),
    vae=VAEConfig(
        kind="compact", z_dim=32, spatial_stride=16, encoder_widths=(64, 128, 192),
        decoder_widths=(256, 128, 64), decoder_blocks=(2, 3, 3), mean=(0.0,) * 32, std=(1.0,) * 32, prime_latents=3,
    ),
    text=TextConfig(kind="hash", dim=128, length=32, vocab=4096, num_layers=2, num_heads=4),
    speech=SpeechConfig(kind="whisper", name="tiny.en", num_states=5, dim=768, shifts=(-80, 0, 80)),
    sigmas={n: shifted_sigmas(n, 5.0) for n in range(1, 9)},
    areas=((384, 256), (256, 384)),
    size_multiple=128,
    size_rule=LISTED_SIZES,
    framing=FRAME_FACE,
    pose_input=HEAD_ANGLES,
    needs_gpu=False,
    fast_path=True,
    has_kv_choice=False,
    spreads=False,
)  # fmt: skip

# Same classes, a few thousand weights: CI trains and renders this one.
TINY = replace(
    MINI,
    name="tiny",
    dit=replace(MINI.dit, dim=32, num_heads=2, num_layers=2, ffn_dim=64, in_dim=8, out_dim=8, text_dim=16,
                text_len=8, audio_inject_layers=(0,), freq_dim=32),
    vae=replace(MINI.vae, z_dim=8, encoder_widths=(8, 16, 32), decoder_widths=(32, 16, 8),
                mean=(0.0,) * 8, std=(1.0,) * 8),
    text=replace(MINI.text, dim=16, length=8, vocab=64, num_layers=1, num_heads=2),
    speech=replace(MINI.speech, shifts=(0,)),
    fast_path=False,
)  # fmt: skip

PRESETS = {m.name: m for m in (MINI, LIVE_AVATAR_14B, TINY)}


def refuse_size(model: ModelConfig, size: tuple[int, int]) -> None:
    """Refuse a size that a model does not make.

    Args:
        model: whose `size_rule` decides.
        size: (width, height) of `--size`.

    Raises:
        InputError: with the sizes it makes.
    """
    listed = [f"{w}*{h}" for w, h in model.areas]
    if model.size_rule == ANY_SIZE:
        pixels = [w * h for w, h in model.areas]
        if not min(pixels) <= size[0] * size[1] <= max(pixels):
            raise InputError(
                f"--size {size[0]}*{size[1]}: {model.name} makes areas from {min(pixels)} to {max(pixels)} pixels; "
                f"use one of {', '.join(listed)}"
            )
    elif size not in model.areas:
        raise InputError(
            f"--size {size[0]}*{size[1]}: the model {model.name} was trained for {' and '.join(listed)} only; "
            "use one of these (the portrait's aspect decides which way it stands)"
        )


def refuse_pose(model: ModelConfig) -> None:
    """Refuse to guide a model that never learned it.

    Raises:
        InputError: with the reason.
    """
    if not (model.pose_guided or model.pose_input == SKELETON_VIDEO):
        raise InputError(
            f"--pose_video: the model {model.name} was trained without head pose, which it would ignore; drop it, or "
            "use a model trained with pose"
        )
