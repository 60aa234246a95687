"""Prefect shell of `liveavatar.prompt`: is a prompt dense enough, and what does the model hear of it?"""

from dataclasses import asdict
from pathlib import Path

from liveavatar.files import plain
from tasks.events import Event, emit
from tasks.stage import cached, stage
from tasks.store.keys import stage_key
from tasks.store.store import Entry, Values

CODE = ("liveavatar.prompt.check", "liveavatar.prompt.heard")
PACKAGES: tuple[str, ...] = ()


@stage("prompt")
def prompt_check(prompt: str, words_read: int | None = None) -> Entry:
    """Score a prompt and tell what the model hears of it; the report is the entry's values.

    Args:
        prompt: of the user.
        words_read: by the model's small text encoder; None for the 14B, which reads 512 tokens as they are.
    """
    from liveavatar.prompt import check as library

    def make(_: Path) -> Values:
        from liveavatar.prompt.heard import hear

        heard = None if words_read is None else asdict(hear(prompt, words_read))
        return {**plain(library.check_prompt(prompt)), "heard": heard}

    entry = cached(stage_key("prompt", {"prompt": prompt, "words_read": words_read}, CODE, PACKAGES), make)
    report = entry.values
    if report["grade"] == "poor":
        missing = ", ".join(report["missing"])
        emit(Event(kind="note", stage="prompt", text=f"the prompt is poor: it says nothing of {missing}"))
    for problem in report["problems"]:
        emit(Event(kind="note", stage="prompt", text=f"the prompt: {problem}"))
    if report["heard"] is not None and report["heard"]["line"]:
        emit(Event(kind="note", stage="prompt", text=report["heard"]["line"]))
    return entry
