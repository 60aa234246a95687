"""Prefect shell of `liveavatar.prompt.check`: is the prompt dense enough to steer the model?"""

from pathlib import Path

from liveavatar.files import plain
from tasks.events import Event, emit
from tasks.stage import cached, stage
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

CODE = ("liveavatar.prompt.check",)
PACKAGES: tuple[str, ...] = ()


@stage("prompt")
def prompt_check(prompt: str) -> Entry:
    """Score a prompt; the report is the entry's values."""
    from liveavatar.prompt import check as library
    from liveavatar.prompt import word_classes

    def make(_: Path) -> Values:
        return plain(library.check_prompt(prompt))

    entry = cached(stage_key("prompt", {"prompt": prompt, "words": word_classes.digest()}, CODE, PACKAGES), make)
    report = entry.values
    if report["grade"] == "poor":
        missing = ", ".join(report["missing"])
        emit(Event(kind="note", stage="prompt", text=f"the prompt is poor: it says nothing of {missing}"))
    for problem in report["problems"]:
        emit(Event(kind="note", stage="prompt", text=f"the prompt: {problem}"))
    return entry
