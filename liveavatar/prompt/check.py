"""Information density of a prompt: facets present, facets missing, problems, suggestions.

A *facet* is one subject of a video prompt: person, action, lighting, style, camera, setting, mood. The score is

    sum over facets of weight * min(1, found / needed)

where `found` counts the distinct words of the facet's lexicon in the prompt, generic ones ("person", "talking") half;
negated and contradicted words do not count. The grade follows from the facets (`_grade`), and the score is kept within
the range of the grade. English and Chinese are supported, also mixed; a prompt in another language is "unknown".
"""

import unicodedata
from dataclasses import dataclass

from liveavatar.errors import InputError
from liveavatar.prompt import chinese, english, sense, words_en, words_zh
from liveavatar.prompt.hits import Hit
from liveavatar.prompt.languages import language_of
from liveavatar.prompt.lexicon import FACETS
from liveavatar.prompt.lookup import find_hits

MAX_WORDS = 2000  # words, or Chinese characters
FAIR, GOOD = 0.40, 0.70  # scores
TOKENS_READ = 512  # of umT5, the text encoder of the 14B
_RANGES = {"unknown": (0.0, 0.0), "poor": (0.0, FAIR - 0.01), "fair": (FAIR, GOOD - 0.01), "good": (GOOD, 1.0)}
_TOKENS_PER_WORD, _TOKENS_PER_HAN = 1.35, 0.75
_LATE = 120  # words before the first word about the person, beyond which it comes late
_WEIGHTS = {
    "person": 0.25, "action": 0.20, "lighting": 0.15, "style": 0.15, "camera": 0.10, "setting": 0.10, "mood": 0.05,
}  # fmt: skip
_NEEDED = {
    "person": 3.0, "action": 2.0, "lighting": 1.5, "style": 1.5, "camera": 1.0, "setting": 1.0, "mood": 1.0,
}  # fmt: skip
_GENERIC = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptReport:
    """Report on a prompt's facets; JSON-able through `dataclasses.asdict`."""

    score: float  # 0 to 1
    grade: str  # "poor", "fair", "good", or "unknown" for a language that the check does not know
    facets: dict[str, list[str]]  # words found for each facet
    missing: list[str]  # facets without a specific word, heaviest first
    problems: list[str]  # what spoils it: contradictions, a list of words, words that no model reads
    suggestions: list[str]  # one concrete addition per facet that is missing or thin, heaviest first
    language: str  # "en", "zh" or "other"
    num_words: int  # English words plus Chinese characters


def check_prompt(text: str) -> PromptReport:
    """Judge a prompt.

    Raises:
        InputError: no words in it, or more than `MAX_WORDS`.
    """
    clean = unicodedata.normalize("NFKC", text).lower()
    num_han = len(chinese.HAN.findall(clean))
    if not any(c.isalpha() for c in clean):
        raise InputError(
            "the prompt is empty; describe person, action, lighting and style, for instance: "
            f"{words_en.HINTS['person'][1]}, {words_en.HINTS['action'][1]}, {words_en.HINTS['lighting'][1]}"
        )
    num_english = len(english.words_of(clean))
    num_words = num_english + num_han
    length = max(num_words, len(clean.split()))
    if length > MAX_WORDS:
        raise InputError(
            f"the prompt has {length} words; the models read a few hundred at most, keep it below {MAX_WORDS}"
        )
    hits = sense.of_the_person(find_hits(clean), chinese.simplified(clean))
    language = language_of(clean, num_english, len(hits))
    problems: list[str] = []
    limit = _words_read(num_english, num_han)
    if limit < num_words:
        problems.append(
            f"the 14B reads {TOKENS_READ} tokens, about the first {limit} of these {num_words} words; "
            "put the person first"
        )
        hits = [h for h in hits if h.at < limit]
    hits = [h for h in hits if not h.negated]
    conflicts = sense.contradictions(hits, chinese.simplified(clean))
    problems += [f"{facet}: {one!r} and {other!r} contradict each other; keep one" for facet, one, other in conflicts]
    listed = sense.is_word_list(clean, hits)
    if listed:
        problems.append("a list of words, not a description; say who does what, in a sentence")
    late = _comes_late(hits)
    if late:
        problems.append("the person comes late; begin with who it is and what they do")
    if language == "other":
        problems.append("the check knows English and Chinese; this prompt is in neither, so it is not judged")
    specific, generic = _by_facet([] if listed or language == "other" else hits, {facet for facet, _, _ in conflicts})
    amount = {f: len(specific[f]) + _GENERIC * len(generic[f]) for f in FACETS}
    fill = {f: min(1.0, amount[f] / _NEEDED[f]) for f in FACETS}
    grade = "unknown" if language == "other" else _grade(specific, generic, spoilt=bool(conflicts) or late)
    score = sum(_WEIGHTS[f] * fill[f] for f in FACETS)
    low, high = _RANGES[grade]
    heaviest = sorted(FACETS, key=lambda f: -_WEIGHTS[f])
    return PromptReport(
        score=round(min(max(score, low), high), 3),
        grade=grade,
        facets={f: [*specific[f], *generic[f]] for f in FACETS},
        missing=[f for f in heaviest if not specific[f]],
        problems=problems,
        suggestions=[_hint(f, language) for f in heaviest if fill[f] < 0.6],
        language=language,
        num_words=num_words,
    )


def _grade(specific: dict[str, list[str]], generic: dict[str, list[str]], *, spoilt: bool) -> str:
    """Grade by who it is, what they do, and how many of the other five facets are said."""
    others = [f for f in FACETS if f not in ("person", "action") and specific[f]]
    who, acts = specific["person"], specific["action"]
    if not (who or set(generic["person"]) - words_en.COLOURS - words_zh.COLOURS) or not (acts or generic["action"]):
        return "poor"
    if not acts:  # talks
        if not who or len(others) < 3:
            return "poor"
        return "good" if len(others) >= 4 and not spoilt else "fair"
    if not others:
        return "fair" if who and len(acts) >= 2 else "poor"
    if not who and len(others) < 2 and len(acts) < 2:
        return "poor"
    looks = len(who) + len(generic["person"]) >= 2
    return "good" if who and looks and len(others) >= 3 and not spoilt else "fair"


def require_dense(text: str) -> PromptReport:
    """Judge a prompt and refuse a poor one or one that cannot be judged, as `--strict_prompt` does.

    Raises:
        InputError: no words, more than `MAX_WORDS`, a poor prompt, or one in a language that the check does not know.
    """
    report = check_prompt(text)
    if report.grade == "unknown":
        raise InputError(
            "--prompt is in a language that cannot be judged (English and Chinese can); write it in one of them, "
            "or drop --strict_prompt"
        )
    if report.grade == "poor":
        why = report.problems[0] if report.problems else f"it says nothing specific about {', '.join(report.missing)}"
        raise InputError(
            f"--prompt is poor (score {report.score:.2f}): {why}; "
            f"add it, or drop --strict_prompt; {'; '.join(report.suggestions[:4])}"
        )
    return report


def _comes_late(hits: list[Hit]) -> bool:
    """Tell if most of what is said about the person and their action stands after the first `_LATE` words."""
    first = {h.entry: h.at for h in reversed(hits) if h.places[0][0] in ("person", "action")}
    about = [at > _LATE for at in first.values()]
    return bool(about) and sum(about) > 0.7 * len(about)


def _words_read(num_english: int, num_han: int) -> int:
    """Estimate how many words fit into the tokens that umT5 reads."""
    tokens = num_english * _TOKENS_PER_WORD + num_han * _TOKENS_PER_HAN
    return int((num_english + num_han) * min(1.0, TOKENS_READ / tokens)) if tokens else 0


def _hint(facet: str, language: str) -> str:
    what, example = (words_zh if language == "zh" else words_en).HINTS[facet]
    return f"{what}，例如：{example}" if language == "zh" else f"{what}, for instance: {example}"


def _by_facet(hits: list[Hit], spoilt: set[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Sort distinct entries by facet in order of appearance: (specific, generic); contradicted ones say nothing."""
    specific: dict[str, list[str]] = {f: [] for f in FACETS}
    generic: dict[str, list[str]] = {f: [] for f in FACETS}
    for hit in hits:
        for facet, is_generic in hit.places:
            bucket = (generic if is_generic else specific)[facet]
            if hit.entry not in bucket and not (facet in spoilt and sense.excluded(facet, hit.entry)):
                bucket.append(hit.entry)
    return specific, generic
