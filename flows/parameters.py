"""The outward form of a render: every option with its bounds, for the command line and the Prefect UI alike.

Reading a form checks what can be checked without opening a file; each refusal is one line that says what was
given, what is wrong, and the way out.
"""

import re
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from flows.presets import FILLED, preset_options
from flows.stored_inputs import AUDIO, IMAGE, PREFIX, newest_names, path_of
from liveavatar.checkpoints.directory import read_config
from liveavatar.checkpoints.headers import readable_model_dir
from liveavatar.config import PRESETS, ModelConfig
from liveavatar.engine.settings import RenderSettings
from liveavatar.errors import InputError
from liveavatar.files import is_text
from liveavatar.media.framing import Framing
from liveavatar.timing import BLOCK_FRAMES, FPS

SIZE = re.compile(r"^\s*(\d{1,5})\s*[*x×]\s*(\d{1,5})\s*$")
MAX_PROMPT = 4000  # characters
MAX_SEED = 2**63 - 1
SWEPT_STEPS = (3, 4, 5, 6)  # of a sweep that names none


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionGroup:
    """Parameters of a render that are shown together, on the command line and in the Prefect UI."""

    title: str
    description: str
    options: tuple[str, ...]


GROUPS = (
    OptionGroup(
        title="what",
        description="who speaks, what is heard, what is seen",
        options=("audio", "image", "prompt", "prompt_words", "face", "pose_video"),
    ),
    OptionGroup(
        title="how",
        description="model, size, length and speed of the video, and how strictly inputs and result are judged",
        options=(
            *("preset", "model", "size", "framing", "sample_steps", "seed", "num_clip", "infer_frames", "fps"),
            *("enable_online_decode", "denoise", "whisper", "strict_portrait", "strict_prompt", "allow_unjudged"),
            *("limits", "ignore_collapse"),
        ),
    ),
    OptionGroup(
        title="where",
        description="GPUs and memory that are used, the output folder, and what becomes of earlier results",
        options=(
            *("placement", "num_gpus", "fp8", "kv_cache_dtype", "offload_model", "leave_memory"),
            *("out", "resume", "force"),
        ),
    ),
)


def _as_form(schema: dict[str, Any]) -> None:
    """Write a schema as the form of the Prefect UI shows it best: in groups, and each option with one type.

    The form shows "type None" for a property that may be null. Prefect itself lets every property without a default
    be null. Options outside of the groups, as tables and the command line have them, are taken but not shown;
    so is `fps`, which has one legal value.
    """
    options = schema["properties"]
    for kind in (AUDIO, IMAGE):
        options[kind]["description"] += _of_the_studio(kind)
    required, _ = schema.pop("required"), schema.pop("additionalProperties", None)
    schema["patternProperties"] = {f"^{name}$": option for name, option in options.items()}
    schema["properties"] = {
        group.title: {
            "title": group.title.capitalize(),
            "description": group.description,
            "type": "object",
            "properties": {name: _shown(name, options[name]) for name in group.options if name != "fps"},
            "patternProperties": {"^fps$": options["fps"]} if "fps" in group.options else {},
            "required": [name for name in group.options if name in required],
            "propertyNames": {"enum": list(group.options)},  # a refusal lists them
        }
        for group in GROUPS
    }
    schema["propertyNames"] = {"enum": [*schema["properties"], *options]}
    # the three that a render needs come in their group, or outside of it
    schema |= {"if": {"required": [GROUPS[0].title]}, "else": {"required": required}}


def _of_the_studio(kind: str) -> str:
    """Name the files that the studio page was given, which an option takes instead of a path."""
    names = newest_names(kind)
    return f"; or {PREFIX}NAME for a file of the studio page: {', '.join(names)}" if names else ""


def _shown(name: str, option: dict[str, Any]) -> dict[str, Any]:
    """Give an option one type, and no value to begin with where a preset may fill it: the form sends what it shows."""
    kinds = [kind for kind in option.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        choices = {"enum": [*kinds[0]["enum"], None]} if "enum" in kinds[0] else {}
        option = {k: v for k, v in option.items() if k not in ("anyOf", "default")} | kinds[0] | choices
    if name in FILLED and "default" in option:
        default = option["default"]
        empty = "" if default is False else f"; {default} when empty"
        option = {k: v for k, v in option.items() if k != "default"}
        option["description"] += empty
    return option


def ungrouped(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a form out of their groups, without empty ones; one outside of them counts more."""
    titles = {group.title for group in GROUPS}
    groups = {title: options[title] for title in titles & set(options) if isinstance(options[title], dict)}
    loose = {name: value for name, value in options.items() if name not in groups}
    filled = {name: value for part in groups.values() for name, value in part.items() if value is not None}
    return filled | loose


def grouped(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Put options into the groups of the form, so that the Prefect UI shows them when it copies a run."""
    parts = {group.title: {n: options[n] for n in group.options if n in options} for group in GROUPS}
    return {title: part for title, part in parts.items() if part}


class RenderParameters(BaseModel):
    """Parameters of one render."""

    model_config = ConfigDict(extra="forbid", validate_default=True, title="Render", json_schema_extra=_as_form)

    audio: str = Field(min_length=1, description="speech: any audio or video file")
    image: str = Field(
        min_length=1, description="portrait: any picture file; the run's log first says whether it will speak"
    )
    prompt: str = Field(
        description="who is seen, doing what, in which light and style; auto, or auto: and a few words, writes the rest"
    )
    prompt_words: Literal["known", "all"] = Field(
        default="known",
        description="what mini reads of the prompt: known, in the phrases that it was taught; all, as it is written",
    )
    model: str = Field(default="mini", min_length=1, description="mini, live-avatar-14b, or a model directory")
    preset: Literal["newbie", "fast", "quality", "production"] | None = Field(
        default=None,
        description="fills options that are not given: newbie, the size to begin with, 50 clips; fast, small and few "
        "steps; quality, the largest recommended size; production, live output, and doubtful inputs are refused",
    )
    size: str | None = Field(
        default=None,
        description="size of the video in pixels, such as 704*384; only the area counts; empty: the picture's",
    )
    framing: Literal["portrait", "model"] | None = Field(
        default=None,
        description="portrait: the video is your picture, in which the face moves; model: cut as the model needs it; "
        "empty: portrait for mini",
    )
    face: int = Field(default=1, ge=1, le=100, description="which face of the picture speaks, the largest first")
    strict_portrait: bool = Field(default=False, description="refuse a portrait that may not speak")
    sample_steps: int = Field(default=4, ge=1, le=8, description="denoise steps per block")
    num_clip: int | None = Field(default=None, ge=1, le=100_000, description="most clips to render; all when empty")
    pose_video: str | None = Field(
        default=None,
        min_length=1,
        description="video whose head and eyes are followed, or a csv of yaw, pitch, roll (lids, gaze_yaw, gaze_pitch)",
    )
    infer_frames: int = Field(default=48, ge=12, le=960, description="frames per clip, a multiple of 12")
    seed: int = Field(default=420, ge=0, le=MAX_SEED, description="seed of all noise")
    fps: int = Field(default=FPS, description="frames per second; the models make 25")
    enable_online_decode: bool = Field(default=False, description="decode each block at once and stream it as HLS")
    offload_model: bool | None = Field(
        default=None, description="keep idle weights in host memory, and keys and values if need be (GPU only)"
    )
    fp8: bool = Field(default=False, description="8-bit linear layers (GPU only)")
    kv_cache_dtype: Literal["auto", "bf16", "fp8", "int8", "e4m3"] = Field(
        default="auto",
        description="what the 14B keeps keys and values in (GPU only): bf16; fp8, in half the memory; int8, for 8-bit "
        "attention, keys in int8 and values in e4m3; e4m3, for the faster and coarser one of "
        "FlashAttention-3 on a Hopper GPU; auto: bf16 where it fits, else fp8",
    )
    placement: Literal["auto", "single", "tpp", "replicas"] = Field(default="auto", description="which GPU does what")
    num_gpus: int | None = Field(default=None, ge=1, le=64, description="GPUs to use; on a CPU, processes")
    leave_memory: float | None = Field(
        default=None,
        ge=0,
        le=1024,
        description="GB of every GPU's memory that are left to other programs; without a GPU, of the host's",
    )
    denoise: Literal["auto", "off", "stationary", "nonstationary", "rnnoise"] = Field(
        default="auto", description="noise removal"
    )
    whisper: Literal["tiny.en", "base", "large-v3", "off"] = Field(default="tiny.en", description="transcriber")
    strict_prompt: bool = Field(default=False, description="refuse a poor prompt")
    allow_unjudged: bool = Field(
        default=False, description="let the verdict warn instead of fail where a measure cannot be taken"
    )
    limits: str | None = Field(
        default=None,
        min_length=1,
        description="file with limits of the verdict, a copy of data/limits.json with changes",
    )
    ignore_collapse: bool = Field(
        default=False, description="render to the end even if the picture of a long video falls apart"
    )
    out: str | None = Field(default=None, min_length=1, description="output folder; out/TIME-SEED when empty")
    resume: bool = Field(default=False, description="go on where an interrupted render of this job stopped")
    force: bool = Field(default=False, description="render although the store has the result")

    _filled: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _take_groups(cls, options: Any) -> Any:
        return ungrouped(options) if isinstance(options, dict) else options

    @model_validator(mode="after")
    def _fill(self) -> "RenderParameters":
        """Take the options of the preset that were not given."""
        if self.preset is not None:
            options = preset_options(
                self.preset, PRESETS.get(self.model) or read_config(readable_model_dir(self.model))
            )
            given = {name for name in self.model_fields_set if getattr(self, name) is not None}
            self._filled = {name: value for name, value in options.items() if name not in given}
            for name, value in self._filled.items():
                object.__setattr__(self, name, value)
        return self

    @field_validator("audio", "image")
    @classmethod
    def _find_stored(cls, path: str, info: ValidationInfo) -> str:
        return path_of(path, str(info.field_name))

    @field_validator("leave_memory", mode="before")
    @classmethod
    def _check_memory(cls, memory: Any) -> Any:
        if not isinstance(memory, str):
            return memory
        match = re.fullmatch(r"(-?\d*\.?\d+)\s*(?:([gm])(?:i?b)?)?", memory.strip(), flags=re.IGNORECASE)
        if match is None:
            raise ValueError("is no amount of memory; write gigabytes, such as 6GB")
        return float(match[1]) / 1024 if (match[2] or "").lower() == "m" else match[1]

    @field_validator("prompt")
    @classmethod
    def _check_prompt(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("is empty; describe the person, what they do, the light and the style")
        if not is_text(prompt):
            raise ValueError("is not UTF-8 text; set the terminal and the file that it comes from to UTF-8")
        if len(prompt) > MAX_PROMPT:
            words = len(prompt.split())
            raise ValueError(
                f"has {words} words ({len(prompt)} characters); the model reads the first few dozen words, "
                f"so keep it under {MAX_PROMPT} characters"
            )
        if prompt.strip()[:4].lower() == "auto":
            from liveavatar.prompt.rewrite import automatic

            return automatic(prompt)
        return prompt

    @field_validator("infer_frames")
    @classmethod
    def _check_clip(cls, infer_frames: int) -> int:
        if infer_frames % BLOCK_FRAMES:
            low = infer_frames // BLOCK_FRAMES * BLOCK_FRAMES
            raise ValueError(f"is not a multiple of {BLOCK_FRAMES} (a block); use {low} or {low + BLOCK_FRAMES}")
        return infer_frames

    @field_validator("fps")
    @classmethod
    def _check_fps(cls, fps: int) -> int:
        if fps != FPS:
            raise ValueError(f"the models make {FPS} frames per second and no others; use {FPS}")
        return fps

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: str | None) -> str | None:
        if size is not None:
            parse_size(size)
        return size

    def settings(self) -> RenderSettings:
        """Collect the settings that change the latents, inputs and model aside."""
        return RenderSettings(**{field.name: getattr(self, field.name) for field in fields(RenderSettings)})

    def words_heard(self, model: ModelConfig) -> int | None:
        """Return how many words a model hears as phrases of its own; None when it is given the prompt as it is."""
        return None if self.prompt_words == "all" else model.text.words_read

    def framing_request(self, model: ModelConfig) -> Framing:
        """Collect what is asked of the portrait's framing; live video without a size has that of the model."""
        size = self.area() or (model.default_area if self.enable_online_decode else None)
        return Framing(size=size, framing=self.framing, face=self.face)

    def filled(self) -> dict[str, Any]:
        """Return the options that the preset filled in."""
        return dict(self._filled)

    def area(self) -> tuple[int, int] | None:
        """Return (width, height) of `size`; None for the model's default."""
        return parse_size(self.size) if self.size else None


def parse_size(size: str) -> tuple[int, int]:
    """Parse "W*H" into (width, height) in pixels.

    Raises:
        ValueError: when it is not of that form.
    """
    match = SIZE.fullmatch(size.strip())
    if not match or "0" in match.groups():
        raise ValueError('is not of the form W*H; write for example "384*256"')
    return int(match[1]), int(match[2])


def read_parameters(fields: dict[str, Any]) -> RenderParameters:
    """Check a dictionary of options.

    Raises:
        InputError: naming the first option that is wrong, or missing.
    """
    try:
        return RenderParameters(**fields)
    except ValidationError as e:
        raise InputError(describe(e)) from e


def given_parameters(given: RenderParameters | dict[str, Any]) -> RenderParameters:
    """Read the parameters of a flow, which come from Prefect as they were given.

    Raises:
        InputError: naming the first option that is wrong, or missing.
    """
    return given if isinstance(given, RenderParameters) else read_parameters(given)


def meant(name: str) -> str:
    """End a message about an option that there is not: with the one that is meant, or where they are listed."""
    spelt = re.sub(r"[\s-]+", "_", name.strip().lower())
    close = get_close_matches(spelt, RenderParameters.model_fields, 1)
    return f": did you mean {close[0]}?" if close else "; `liveavatar render --help` lists them"


def describe(error: ValidationError) -> str:
    """Describe the first error that pydantic reports in one line."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "parameters"
    if first["type"] == "missing":
        return f"--{name} is missing; give it"
    if first["type"] == "extra_forbidden":
        return f"--{name} is no option of a render{meant(name)}"
    value = str(first["input"])
    value = value if len(value) <= 40 else value[:37] + "..."
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if first["type"] != "value_error":
        reason += "; `liveavatar render --help` shows the range"
    return f"--{name} {value!r} {reason}"
