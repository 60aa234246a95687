"""Names of runs: one that says what is rendered, and those that Prefect makes up."""

import re
from functools import cache
from pathlib import Path
from typing import Any, cast

from flows.parameters import RenderParameters, ungrouped
from flows.stored_inputs import PREFIX

# The form of Prefect's UI makes up "sigma3-konishi" and "mu2-minnobia-x". Letters that people use as words count with a
# number only, so that "beta-launch" stays.
WORDS = "alpha beta gamma delta omega"
LETTERS = "epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi"
OF_THE_FORM = re.compile(rf"(({WORDS.replace(' ', '|')})\d+|({LETTERS.replace(' ', '|')})\d*)(-[a-z0-9]+)+")
PART_LENGTH = 40  # characters of a file's name in the name of a run


def made_up(name: str) -> bool:
    """Tell if Prefect made a name up: "gifted-peacock", or one of the form in its UI."""
    first, _, second = name.partition("-")
    adjectives, animals = _slugs()
    return (first in adjectives and second in animals) or bool(OF_THE_FORM.fullmatch(name))


@cache
def _slugs() -> tuple[frozenset[str], frozenset[str]]:
    """List the first and the second words of the names that Prefect's server makes up."""
    from coolname.data import config

    parts = cast(dict[str, dict[str, Any]], config)

    def words(name: str) -> frozenset[str]:
        part = parts[name]
        return frozenset(part["words"]) if "words" in part else frozenset().union(*map(words, part["lists"]))

    (pairs,) = parts["2"]["lists"]
    first, second = parts[pairs]["lists"]
    return words(first), words(second)


def render_name(parameters: dict[str, Any]) -> str:
    """Describe a render: sound, portrait and seed."""
    job = parameters["parameters"]
    given = job.model_dump() if isinstance(job, RenderParameters) else ungrouped(dict(job))
    seed = given.get("seed", RenderParameters.model_fields["seed"].default)
    return f"{_stem(given.get('audio', ''))}-{_stem(given.get('image', ''))}-{seed}"


def _stem(path: str) -> str:
    return "pipe" if path == "-" else Path(path.removeprefix(PREFIX)).stem[:PART_LENGTH]
