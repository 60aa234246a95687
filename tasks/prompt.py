"""Prefect shell of `liveavatar.prompt`: is the prompt dense enough to steer the model?"""

from pathlib import Path

from liveavatar.errors import InputError
from tasks.audio import plain
from tasks.events import Event, emit
from tasks.stage import cached, stage
from tasks.store import Entry, Values


@stage("prompt")
def prompt_check(prompt: str, strict: bool) -> Entry:
    """Score a prompt; the report is the entry's values.

    Raises:
        InputError: the prompt is poor and `strict` asks to refuse it.
    """
    from liveavatar import prompt as library

    def make(_: Path) -> Values:
        return plain(library.check_prompt(prompt))

    entry = cached("prompt", {"prompt": prompt}, make, code=("liveavatar/prompt*.py",))
    report = entry.values
    if report["grade"] == "poor":
        missing = ", ".join(report["missing"])
        if strict:
            raise InputError(
                f"--prompt is poor (score {report['score']:.2f}): it says nothing of {missing}; add it, "
                "or drop --strict_prompt"
            )
        emit(Event(kind="note", stage="prompt", text=f"the prompt is poor: it says nothing of {missing}"))
    return entry
