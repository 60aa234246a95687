"""`liveavatar bench prompts`: the prompt check against labelled prompts.

`data/prompts/labelled.tsv` built the check and says what the labels mean; `data/prompts/fresh.tsv` did not build it.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveavatar import paths
from liveavatar.prompt.check import check_prompt
from liveavatar.prompt.lexicon import FACETS

LABELLED = paths.DATA / "prompts" / "labelled.tsv"
FRESH = paths.DATA / "prompts" / "fresh.tsv"
LEAST = 0.90  # share of right grades on the fresh split
_LETTERS = dict(zip("PALSCEM", ("person", "action", "lighting", "style", "camera", "setting", "mood"), strict=True))
_FILLER = re.compile(r"<(\d+) (?:words of furniture|字家具)>")
_FURNITURE = "the wide oak cabinet has nine drawers and brass knobs and the old rug under it is worn at one edge"
_FURNITURE_ZH = "宽大的橡木柜有九个抽屉和铜把手下面的旧地毯一角磨破了"


@dataclass(frozen=True, slots=True)
class Labelled:
    """Prompt and the answer that it should get."""

    kind: str
    grade: str
    facets: frozenset[str]
    prompt: str

    @property
    def text(self) -> str:
        """The prompt with its filler written out."""

        def written(match: re.Match[str]) -> str:
            number, chinese = int(match[1]), "字" in match[0]
            source = _FURNITURE_ZH if chinese else _FURNITURE.split(" ")
            words = [source[i % len(source)] for i in range(number)]
            return ("" if chinese else " ").join(words) + ("。" if chinese else ".")

        return _FILLER.sub(written, self.prompt)


def read_labelled(path: Path = LABELLED) -> list[Labelled]:
    """Read labelled prompts."""
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return [
        Labelled(kind, grade, frozenset(_LETTERS[c] for c in facets if c != "-"), prompt)
        for kind, grade, facets, prompt in rows
    ]


def bench_prompts(splits: dict[str, list[Labelled]]) -> dict[str, Any]:
    """Judge labelled prompts and count right answers by split, language and kind.

    Args:
        splits: labelled prompts by name of their split; wrong answers are listed for "build" only, so that the
            prompts of another can serve again.

    Returns:
        `splits`: for each, prompts, right grades, share, and facets that are right;
        `kinds`: right and all of each kind; `wrong`: the prompts of "build" whose grade is wrong.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in splits}
    kinds: dict[str, Counter[str]] = {}
    wrong = []
    for split, row in ((name, row) for name, rows in splits.items() for row in rows):
        report = check_prompt(row.text)
        right = report.grade == row.grade
        count = counts[split]
        count.update(prompts=1, right=int(right), **{report.language: 1, f"{report.language} right": int(right)})
        said = set(FACETS) - set(report.missing)
        count["facets right"] += sum((f in said) == (f in row.facets) for f in FACETS)
        kinds.setdefault(row.kind, Counter()).update(prompts=1, right=int(right))
        if not right and split == "build":
            wrong.append({"kind": row.kind, "asked": row.grade, "answer": report.grade, "prompt": row.prompt})
    return {
        "splits": {name: _shares(count) for name, count in counts.items()},
        "kinds": {kind: f"{count['right']} of {count['prompts']}" for kind, count in sorted(kinds.items())},
        "wrong": wrong,
    }


def _shares(count: Counter[str]) -> dict[str, Any]:
    languages = [name for name in ("en", "zh", "other") if count[name]]
    return {
        "prompts": count["prompts"],
        "right": count["right"],
        "share": round(count["right"] / max(1, count["prompts"]), 3),
        "facets": round(count["facets right"] / max(1, len(FACETS) * count["prompts"]), 3),
        "languages": {name: f"{count[name + ' right']} of {count[name]}" for name in languages},
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Write the result as a table."""
    table = ["| split | prompts | grade right | share | facets right | by language |", "|---|---|---|---|---|---|"]
    for split, row in result["splits"].items():
        spoken = ", ".join(f"{name} {text}" for name, text in row["languages"].items())
        cells = (split, row["prompts"], row["right"], f"{row['share']:.1%}", f"{row['facets']:.1%}", spoken)
        table.append("| " + " | ".join(map(str, cells)) + " |")
    table += ["", "| kind | grade right |", "|---|---|"]
    table += [f"| {kind} | {text} |" for kind, text in result["kinds"].items()]
    if result["wrong"]:
        table += ["", "Wrong in the build split:"]
        table += [f"* {w['kind']}: {w['asked']}, judged {w['answer']}: {w['prompt']}" for w in result["wrong"]]
    return table
