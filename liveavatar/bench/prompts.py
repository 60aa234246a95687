"""`liveavatar bench prompts`: the prompt check against labelled prompts, one half held out.

The labels lie in data/prompts/labelled.tsv, which also says what they mean.
"""

import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveavatar import paths
from liveavatar.prompt.check import check_prompt
from liveavatar.prompt.lexicon import FACETS

LABELLED = paths.DATA / "prompts" / "labelled.tsv"
LEAST = 0.90  # share of right grades on the held-out half
_LETTERS = dict(zip("PALSCEM", ("person", "action", "lighting", "style", "camera", "setting", "mood"), strict=True))
_FILLER = re.compile(r"<(\d+) (?:words of furniture|字家具)>")
_FURNITURE = [
    "the",
    "wide",
    "oak",
    "cabinet",
    "has",
    "nine",
    "drawers",
    "and",
    "brass",
    "knobs",
    "and",
    "the",
    "old",
    "rug",
    "under",
    "it",
    "is",
    "worn",
    "at",
    "one",
    "edge",
]
_FURNITURE_ZH = "宽大的橡木柜有九个抽屉和铜把手下面的旧地毯一角磨破了"


@dataclass(frozen=True, slots=True)
class Labelled:
    """Prompt and the answer that it should get."""

    kind: str
    grade: str
    facets: frozenset[str]
    prompt: str

    @property
    def held_out(self) -> bool:
        """True for the half that did not build the check."""
        return bool(zlib.crc32(self.prompt.encode()) % 2)

    @property
    def text(self) -> str:
        """The prompt with its filler written out."""

        def written(match: re.Match[str]) -> str:
            number, chinese = int(match[1]), "字" in match[0]
            source: Any = _FURNITURE_ZH if chinese else _FURNITURE
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


def bench_prompts(labelled: list[Labelled]) -> dict[str, Any]:
    """Judge labelled prompts and count right answers by half, language and kind.

    Returns:
        `halves`: for "build" and "held out": prompts, right grades, share, and facets that are right;
        `kinds`: right and all of each kind; `wrong`: the prompts of the build half whose grade is wrong.
    """
    halves: dict[str, Counter[str]] = {"build": Counter(), "held out": Counter()}
    kinds: dict[str, Counter[str]] = {}
    wrong = []
    for row in labelled:
        report = check_prompt(row.text)
        right = report.grade == row.grade
        count = halves["held out" if row.held_out else "build"]
        count.update(prompts=1, right=int(right), **{report.language: 1, f"{report.language} right": int(right)})
        said = set(FACETS) - set(report.missing)
        count["facets right"] += sum((f in said) == (f in row.facets) for f in FACETS)
        kinds.setdefault(row.kind, Counter()).update(prompts=1, right=int(right))
        if not right and not row.held_out:
            wrong.append({"kind": row.kind, "asked": row.grade, "answer": report.grade, "prompt": row.prompt})
    return {
        "halves": {half: _shares(count) for half, count in halves.items()},
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
    table = ["| half | prompts | grade right | share | facets right | by language |", "|---|---|---|---|---|---|"]
    for half, row in result["halves"].items():
        spoken = ", ".join(f"{name} {text}" for name, text in row["languages"].items())
        cells = (half, row["prompts"], row["right"], f"{row['share']:.1%}", f"{row['facets']:.1%}", spoken)
        table.append("| " + " | ".join(map(str, cells)) + " |")
    table += ["", "| kind | grade right |", "|---|---|"]
    table += [f"| {kind} | {text} |" for kind, text in result["kinds"].items()]
    if result["wrong"]:
        table += ["", "Wrong in the build half:"]
        table += [f"* {w['kind']}: {w['asked']}, judged {w['answer']}: {w['prompt']}" for w in result["wrong"]]
    return table
