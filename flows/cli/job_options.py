"""Options of a render on the command line, in groups, with their values: all taken from the form of a render."""

from argparse import SUPPRESS, ArgumentParser
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from flows.parameters import GROUPS, MAX_SEED, RenderParameters

# What a value is, where neither choices nor a range say it.
VALUES = {
    "audio": "FILE|-",
    "image": "FILE",
    "prompt": "TEXT",
    "model": "NAME|DIR",
    "size": "W*H",
    "pose_video": "FILE",
    "limits": "FILE",
    "fps": "25",
    "out": "DIR",
}

NOTES = {"audio": "; of render also -, 16 kHz PCM from a pipe"}  # what only the command can do


def add_job_options(parser: ArgumentParser) -> None:
    """Add an option for each parameter of a render; values are checked by the form, so that each has one definition."""
    for group in GROUPS:
        section = parser.add_argument_group(group.title, group.description)
        for name in group.options:
            field = RenderParameters.model_fields[name]
            text = f"{field.description}{NOTES.get(name, '')}{_default(field)}".replace("%", "%%")
            if field.annotation is bool:
                section.add_argument(f"--{name}", action="store_true", default=SUPPRESS, help=text)
            elif bool in get_args(field.annotation):
                section.add_argument(
                    f"--{name}", nargs="?", const="True", metavar="True|False", default=SUPPRESS, help=text
                )
            else:
                section.add_argument(f"--{name}", metavar=values_of(name), default=SUPPRESS, help=text)


def values_of(name: str) -> str:
    """Describe the values of a parameter: its choices as `a|b|c`, its range as `1..8`, or what kind it is of."""
    field = RenderParameters.model_fields[name]
    choices = choices_of(field.annotation)
    if choices:
        return "|".join(choices)
    bounds = {kind: getattr(limit, kind) for limit in field.metadata for kind in ("ge", "le") if hasattr(limit, kind)}
    if len(bounds) == 2:
        most = "2^63-1" if bounds["le"] == MAX_SEED else bounds["le"]
        return f"{bounds['ge']}..{most}"
    return VALUES[name]


def choices_of(annotation: Any) -> tuple[str, ...]:
    """List the choices of an annotation such as `Literal["a", "b"] | None`; none of any other."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(choice for part in get_args(annotation) for choice in choices_of(part))
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _default(field: FieldInfo) -> str:
    silent = field.is_required() or field.default is None or field.default is False
    return "" if silent else f" ({field.default})"
