"""English prompts: words, base forms, misspelt words, negated words.

Owns how English text becomes lexicon entries. Knows no grades. An unknown verb after a person counts as an action
("a barrister rebuts"), an unknown noun that ends like one of a person as a person ("shepherdess").
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from liveavatar.prompt import grammar
from liveavatar.prompt.forms import base_forms
from liveavatar.prompt.grammar import Being
from liveavatar.prompt.hits import Hit, Places, index_of
from liveavatar.prompt.lexicon import entries
from liveavatar.prompt.real_words import REAL_WORDS
from liveavatar.prompt.word_classes import CLASSES, in_class

LONGEST_PHRASE = 4  # words
_TOKEN = re.compile(r"[a-z0-9][a-z0-9']*|[,.;:!?()|\n]")
_WORD = re.compile(r"[a-z0-9]")
_STOPS = frozenset(",.;:!?()|\n") | {"but", "while", "although", "just", "only", "instead"}
_NEGATORS = entries("no|not|without|never|neither|nor|none|lacking|minus|avoid|cannot")
_ARTICLES = _NEGATORS | {"a", "an", "the", "any"}
_NEGATED_WORDS = 6  # a negation reaches at most so far
_NO_REACHES = 3  # words, of "no" and "without"
FUNCTION_WORDS = entries(
    "a|an|the|in|on|at|with|and|of|by|his|her|their|its|is|are|was|who|that|as|to|from|behind|under|"
    "while|wearing|wears|over|through|near|beside|against|for|into|he|she|they|it|this|it's"
)
_NOT_VERBS = entries(
    "this|always|perhaps|across|besides|towards|various|glass|grass|dress|class|cross|boss|canvas|plus|"
    "pass|words|thing|something|nothing|everything|anything|morning|evening|building|ceiling|clothing|"
    "king|ring|wing|string|during|wedding|painting|being|lighting|spring|awning|railing|flooring|piping|"
    "thus|has|does|was|its|yes|lens|gas|bus|less|unless|hers|ours|theirs|his|us|as|is|series|species|"
    "news|sometimes|upstairs|downstairs|outdoors|indoors|percent|numbers|documents|weights|instructions|"
    "table|tables"
)


def words_of(text: str) -> list[str]:
    """List the English words of lower-case text."""
    return [t for t in _TOKEN.findall(text.replace("’", "'")) if _WORD.match(t)]


def find(text: str) -> list[Hit]:
    """Find lexicon entries in lower-case English text."""
    tokens = list(_TOKEN.findall(text.replace("’", "'")))
    negated = _negated(tokens)
    hits: list[Hit] = []
    being: Being | None = None
    index, i, at = index_of("en"), 0, 0
    while i < len(tokens):
        if not _WORD.match(tokens[i]):
            i += 1
            continue
        run = _run(tokens, i)
        step, entry, places = 1, "", None
        for length in range(min(LONGEST_PHRASE, len(run)), 0, -1):
            entry = next((e for e in _phrases(run[:length]) if e in index), "")
            if entry:
                step, places = length, index[entry]
                break
        being = grammar.same_sentence(tokens, being, i)
        if step == 1 and places and ("action", False) not in places and grammar.is_surely_action(tokens, i, being):
            entry, places = tokens[i], [("action", False)]
        facet = grammar.facet_of_head(tokens, i) if step == 1 else ""
        if facet and (facet, False) not in (places or []):
            entry, places = f"{tokens[i - 1]} {tokens[i]}", [(facet, False)]
        if places is None:
            entry, places = _guess(tokens, i, being, hits[-1] if hits else None, at)
        if places:
            is_person = any(facet == "person" for facet, _ in places)
            spelt = entry.split()[-1] if is_person else tokens[i + step - 1]
            being = grammar.being_at(tokens, i, i + step - 1, spelt, known_person=is_person) or being
            if being is not None and ("action", False) in places:
                being = replace(being, acts=True)
            hits.append(Hit(entry=entry, places=places, at=at, negated=negated[i] or negated[i + step - 1]))
        at += step
        i += step
    return hits


def _run(tokens: list[str], start: int) -> list[str]:
    run = []
    for token in tokens[start : start + LONGEST_PHRASE]:
        if not _WORD.match(token):
            break
        run.append(token)
    return run


def _negated(tokens: list[str]) -> list[bool]:
    """Mark the tokens that a negation covers."""
    marks, left, short = [], 0, False
    for i, token in enumerate(tokens):
        following = tokens[i + 1] if i + 1 < len(tokens) else ""
        before = tokens[i - 1] if i else ""
        if token in _STOPS:
            left = 0
        elif (token in _NEGATORS or token.endswith("n't")) and following not in ("only", "just", "doubt", "stop"):
            short = token in ("no", "without", "minus", "lacking")
            left = 1 + (_NO_REACHES if short else _NEGATED_WORDS)
        elif token == "free" and following == "of":
            left = 2 + _NO_REACHES
        elif (token in ("and", "with", "who") and before not in _NEGATORS) or (
            left and (token in ("help", "stop") or (short and before not in _ARTICLES and _is_action(token)))
        ):
            left = 0  # "cannot help smiling", "without a hat nods"
        marks.append(left > 0)
        left = max(0, left - 1)
    return marks


def _is_action(word: str) -> bool:
    return any(("action", False) in index_of("en").get(form, []) for form in base_forms(word))


def _guess(tokens: list[str], i: int, being: Being | None, last: Hit | None, at: int) -> tuple[str, Places | None]:
    """Guess what a word outside the lexicon says: misspelt entry, else by its class and its place in the sentence."""
    word = tokens[i]
    if word in FUNCTION_WORDS or word in _NEGATORS or not word.isalpha() or len(word) < 3:
        return "", None
    known = in_class(base_forms(word), *CLASSES)
    corrected = "" if known else correct(word)
    if corrected:
        return corrected, index_of("en")[corrected]
    if grammar.is_action(tokens, i, being):
        return word, [("action", False)]
    if grammar.is_person(tokens, i) or grammar.is_worn(tokens, i, being):
        return word, [("person", False)]
    if grammar.is_place(tokens, i):
        return word, [("setting", False)]
    if in_class(base_forms(word), "mood"):
        return word, [("mood", False)]
    if not known and being is not None and _may_be_verb(word, tokens[i - 1], last, at):
        return word, [("action", False)]
    return "", None


def _may_be_verb(word: str, before: str, last: Hit | None, at: int) -> bool:
    """Tell if a word of no known class ends and stands like a verb: close after words about a person."""
    if word in _NOT_VERBS or len(word) < 4 or word in REAL_WORDS or last is None or at - last.at > 3:
        return False
    verb = word.endswith("ing") or (word.endswith("s") and not word.endswith(("ss", "us", "is")))
    close = any(f in ("person", "action") for f, _ in last.places)
    return verb and close and before not in ("a", "an", "the", "of", "in", "with", "his", "her", "their", "no")


def _phrases(words: list[str]) -> Iterator[str]:
    """Iterate over a phrase with its last, then with its first word in every base form."""
    for last in base_forms(words[-1]):
        yield " ".join([*words[:-1], last])
    if len(words) > 1:
        for first in base_forms(words[0]):
            yield " ".join([first, *words[1:]])


@lru_cache(maxsize=4096)
def correct(word: str) -> str:
    """Find the lexicon entry of which a word is a misspelling; "" when it is none or a word of its own."""
    if len(word) < 4 or word in REAL_WORDS or word in FUNCTION_WORDS or not word.isalpha():
        return ""
    best = ""
    for form in base_forms(word):
        for entry in _single_words():
            if entry[0] == form[0] and _misspelt(form, entry):
                return entry
            if not best and entry[0] == form[0] and len(form) >= 8 and len(entry) >= 8 and _edits(form, entry) == 2:
                best = entry
    return best


@lru_cache(maxsize=1)
def _single_words() -> tuple[str, ...]:
    return tuple(sorted(e for e in index_of("en") if e.isalpha() and len(e) >= 4))


def _misspelt(word: str, entry: str) -> bool:
    """Tell if one slip makes `entry` into `word`: two letters swapped, one lost, one added, one wrong (if long)."""
    if abs(len(word) - len(entry)) > 1 or word == entry or len(word) < 4:
        return False
    if len(word) == len(entry):
        wrong = [i for i in range(len(word)) if word[i] != entry[i]]
        if len(wrong) == 2 and wrong[1] == wrong[0] + 1:
            return word[wrong[0]] == entry[wrong[1]] and word[wrong[1]] == entry[wrong[0]]
        return len(wrong) == 1 and len(word) >= 6
    longer, shorter = (word, entry) if len(word) > len(entry) else (entry, word)
    return len(longer) >= 5 and any(longer[:i] + longer[i + 1 :] == shorter for i in range(1, len(longer)))


def _edits(a: str, b: str) -> int:
    """Count the edits between two words, a swap of neighbours as one."""
    if abs(len(a) - len(b)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]
