"""Information density of a prompt: facets present, facets missing, suggestions.

A *facet* is one subject of a video prompt: person, action, lighting, style, camera, setting, mood. The score is

    sum over facets of weight * min(1, found / needed)

where `found` counts the distinct words of the facet's lexicon in the prompt, generic ones ("person", "talking") half.
A prompt below `FAIR` or without person or action is "poor", from `GOOD` on it is "good". English and Chinese are
supported, also mixed; a prompt in neither is poor because it cannot be judged.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from liveavatar.errors import InputError
from liveavatar.prompt import words_en, words_zh
from liveavatar.prompt.words_en import FACETS

MAX_WORDS = 2000  # words, or Chinese characters
FAIR, GOOD = 0.40, 0.70  # scores
_WEIGHTS = {
    "person": 0.25, "action": 0.20, "lighting": 0.15, "style": 0.15, "camera": 0.10, "setting": 0.10, "mood": 0.05,
}  # fmt: skip
_NEEDED = {
    "person": 3.0, "action": 2.0, "lighting": 1.5, "style": 1.5, "camera": 1.0, "setting": 1.0, "mood": 1.0,
}  # fmt: skip
_GENERIC = 0.5
_LONGEST_PHRASE = 4  # words

_WORD = re.compile(r"[a-z0-9][a-z0-9']*")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptReport:
    """Report on a prompt's facets; JSON-able through `dataclasses.asdict`."""

    score: float  # 0 to 1
    grade: str  # "poor", "fair" or "good"
    facets: dict[str, list[str]]  # words found for each facet
    missing: list[str]  # facets without a specific word, heaviest first
    suggestions: list[str]  # one concrete addition per facet that is missing or thin, heaviest first
    language: str  # "en", "zh" or "other"
    num_words: int  # English words plus Chinese characters


def check_prompt(text: str) -> PromptReport:
    """Judge a prompt.

    Raises:
        InputError: no words in it, or more than `MAX_WORDS`.
    """
    clean = unicodedata.normalize("NFKC", text).lower()
    words = _WORD.findall(clean.replace("’", "'"))
    num_han = len(_HAN.findall(clean))
    num_words = len(words) + num_han
    if not any(c.isalpha() for c in clean):
        raise InputError(
            "the prompt is empty; describe person, action, lighting and style, for instance: "
            f"{words_en.HINTS['person'][1]}, {words_en.HINTS['action'][1]}, {words_en.HINTS['lighting'][1]}"
        )
    length = max(num_words, len(clean.split()))
    if length > MAX_WORDS:
        raise InputError(
            f"the prompt has {length} words; the models read a few hundred at most, keep it below {MAX_WORDS}"
        )
    language = "zh" if num_han > len(words) else "en" if words else "other"
    specific, generic = _find(words, clean if num_han else "")
    amount = {f: len(specific[f]) + _GENERIC * len(generic[f]) for f in FACETS}
    fill = {f: min(1.0, amount[f] / _NEEDED[f]) for f in FACETS}
    score = round(sum(_WEIGHTS[f] * fill[f] for f in FACETS), 3)
    empty = amount["person"] == 0 or amount["action"] == 0
    heaviest = sorted(FACETS, key=lambda f: -_WEIGHTS[f])
    return PromptReport(
        score=score,
        grade="poor" if score < FAIR or empty else "good" if score >= GOOD else "fair",
        facets={f: [*specific[f], *generic[f]] for f in FACETS},
        missing=[f for f in heaviest if not specific[f]],
        suggestions=[_hint(f, language) for f in heaviest if fill[f] < 0.6],
        language=language,
        num_words=num_words,
    )


def require_dense(text: str) -> PromptReport:
    """Judge a prompt and refuse a poor one, as `--strict_prompt` does.

    Raises:
        InputError: no words, more than `MAX_WORDS`, or a poor prompt.
    """
    report = check_prompt(text)
    if report.grade == "poor":
        raise InputError(
            f"--prompt is poor (score {report.score:.2f}): it says nothing specific about {', '.join(report.missing)}; "
            f"add it, or drop --strict_prompt; {'; '.join(report.suggestions[:4])}"
        )
    return report


def _hint(facet: str, language: str) -> str:
    what, example = (words_zh if language == "zh" else words_en).HINTS[facet]
    return f"{what}，例如：{example}" if language == "zh" else f"{what}, for instance: {example}"


def _find(words: list[str], han: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Find the distinct lexicon entries of every facet in order of appearance: (specific, generic)."""
    specific: dict[str, list[str]] = {f: [] for f in FACETS}
    generic: dict[str, list[str]] = {f: [] for f in FACETS}
    for entry, places in [*_english(words), *_chinese(han)]:
        for facet, is_generic in places:
            bucket = (generic if is_generic else specific)[facet]
            if entry not in bucket:
                bucket.append(entry)
    return specific, generic


Places = list[tuple[str, bool]]  # facets of an entry, and whether it is generic there


@lru_cache(maxsize=2)
def _index(language: str) -> dict[str, Places]:
    words = words_zh if language == "zh" else words_en
    index: dict[str, Places] = {}
    for facet in FACETS:
        for entry in words.SPECIFIC[facet]:
            index.setdefault(entry, []).append((facet, False))
        for entry in words.GENERIC[facet] - words.SPECIFIC[facet]:
            index.setdefault(entry, []).append((facet, True))
    return index


def _english(words: list[str]) -> Iterator[tuple[str, Places]]:
    """Iterate over the entries in English words, longest phrase first at each place; every word is used once."""
    index, i = _index("en"), 0
    while i < len(words):
        step = 1
        for length in range(min(_LONGEST_PHRASE, len(words) - i), 0, -1):
            entry = next((e for e in _phrases(words[i : i + length]) if e in index), None)
            if entry is not None:
                yield entry, index[entry]
                step = length
                break
        i += step


def _phrases(words: list[str]) -> Iterator[str]:
    """Iterate over a phrase with its last, then with its first word in every base form."""
    for last in _base_forms(words[-1]):
        yield " ".join([*words[:-1], last])
    if len(words) > 1:
        for first in _base_forms(words[0]):
            yield " ".join([first, *words[1:]])


@lru_cache(maxsize=4096)
def _base_forms(word: str) -> tuple[str, ...]:
    """List a word and its possible base forms: of a plural, past or -ing form, adverb."""
    forms = [word]
    word = word.removesuffix("'s")
    forms.append(word)
    if len(word) > 3:
        if word.endswith("ies"):
            forms.append(word[:-3] + "y")
        if word.endswith("es"):
            forms.append(word[:-2])
        if word.endswith("s"):
            forms.append(word[:-1])
    if word.endswith("ly") and len(word) > 4:
        forms += [word[:-2], word[:-3] + "y"]
    for suffix in ("ing", "ed"):
        stem = word.removesuffix(suffix)
        if stem != word and len(stem) >= 2:
            forms += [stem, stem + "e"]
            if len(stem) > 2 and stem[-1] == stem[-2]:
                forms.append(stem[:-1])
            if suffix == "ed" and stem.endswith("i"):
                forms.append(stem[:-1] + "y")
    return tuple(dict.fromkeys(forms + list(_IRREGULAR.get(word, ()))))


_IRREGULAR = {
    "women": ("woman",), "men": ("man",), "children": ("child",), "said": ("say",), "spoke": ("speak",),
    "told": ("tell",), "sang": ("sing",), "stood": ("stand",), "sat": ("sit",), "held": ("hold",), "led": ("lead",),
    "lying": ("lie",), "wears": ("wearing",), "wore": ("wearing",), "scarves": ("scarf",),
    "elves": ("elf",), "dwarves": ("dwarf",), "wrote": ("write",), "drew": ("draw",),
}  # fmt: skip


def _chinese(text: str) -> Iterator[tuple[str, Places]]:
    """Iterate over the entries in Chinese text (substrings), longest first at each place, without overlap."""
    index, i = _index("zh"), 0
    longest = max(map(len, index))
    while i < len(text):
        entry = next((text[i : i + n] for n in range(longest, 0, -1) if text[i : i + n] in index), None)
        if entry:
            yield entry, index[entry]
        i += len(entry) if entry else 1
