"""Presets of a job: options for an aim, filled in where the user gave none.

Sizes and steps of the large model are those that the article behind this project recommends; the embedded one has its
own sizes and, with fewer steps, its own speed (docs/measured.md).
"""

from typing import Any

from liveavatar.config import LISTED_SIZES, ModelConfig

NAMES = ("newbie", "fast", "quality", "production")
_CHECKED = {"strict_prompt": True, "strict_portrait": True}  # nothing doubtful is rendered overnight
_ANY_SIZE: dict[str, dict[str, Any]] = {
    "newbie": {"size": "688*368", "sample_steps": 4, "num_clip": 50},
    "fast": {"size": "384*256", "sample_steps": 3},
    "quality": {"size": "720*400", "sample_steps": 4},
    "production": {"size": "704*384", "sample_steps": 4, "enable_online_decode": True, **_CHECKED},
}
_LISTED: dict[str, dict[str, Any]] = {
    "newbie": {"sample_steps": 4, "num_clip": 50},  # and the model's own size
    "fast": {"sample_steps": 2},
    "quality": {"sample_steps": 4},  # the video has the size of the picture
    "production": {"sample_steps": 4, **_CHECKED},
}
FILLED = frozenset(option for table in (_ANY_SIZE, _LISTED) for options in table.values() for option in options)


def preset_options(name: str, model: ModelConfig) -> dict[str, Any]:
    """Return the options of a preset for a model."""
    if model.size_rule != LISTED_SIZES:
        return dict(_ANY_SIZE[name])
    width, height = model.default_area
    small = {"size": f"{width}*{height}"} if name in ("newbie", "fast") else {}
    return small | _LISTED[name]
