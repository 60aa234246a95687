"""English words by their place in the sentence: who the subject is, what it does, what is worn, where it is.

Judges words that the lexicon lacks, by their class in WordNet and by their neighbours. A *being* is a person or an
animal. Knows no facets' weights.
"""

from dataclasses import dataclass

from liveavatar.prompt.forms import base_forms, noun_forms
from liveavatar.prompt.lexicon import entries
from liveavatar.prompt.word_classes import in_class

_STOPS = frozenset(",.;:!?()|\n")
_SENTENCE_ENDS = frozenset(".;!?\n")
_DETERMINERS = entries("a|an|the|his|her|their|its|my|your|our|this|that|these|those|each|every|some|one|two|three|no")
_PREPOSITIONS = entries(
    "in|on|at|with|by|to|from|behind|under|over|through|near|beside|against|for|into|onto|before|above|below|across|"
    "around|among|along|between|inside|outside|beneath|beyond|down|up|off|past|toward|towards|upon|within|about"
)
_AFTER_VERB = _DETERMINERS | _PREPOSITIONS | entries("and|while|as|out|away|back|him|them|it|himself|herself|who")
_NOT_BEFORE_VERB = (_DETERMINERS | _PREPOSITIONS) - {"that"} | {"of"}
_MORE_BEINGS = entries(
    "he|she|they|people|someone|somebody|comic|robot|android|cyborg|monster|puppet|doll|zombie|snowman|mascot|avatar|"
    "character|team|crowd|choir|band|crew|family|couple|pair|group|class|audience|troupe|squad|human|figure|male|female|dog|cat|"
    "dragon|unicorn|elf|dwarf|fairy|alien|ghost|skeleton|orc|cyclops|werewolf|mermaid"
)
_GROUPS = entries(
    "team|crowd|choir|band|crew|audience|troupe|squad|orchestra|gang|tribe|trio|quartet|duo|ensemble|congregation"
)
_PLURALS = entries("they|people|men|women|children|two|three|four|five|several|many|and|police|mice|geese|oxen")
_AGENTS = (
    "woman",
    "man",
    "women",
    "men",
    "ess",
    "ist",
    "maid",
    "smith",
    "keeper",
    "herd",
    "ologist",
    "monger",
    "wright",
)
_NOT_AGENTS = entries(
    "fitness|happiness|darkness|brightness|softness|wilderness|mess|less|process|access|express|mattress|"
    "fortress|excess|wrist|list|mist|twist|exist|waist|stress|success|guess|bless|cypress|distress|lightness|progress|"
    "congress|weakness|illness|kindness|madness|sadness|calmness|sharpness|freshness|loneliness|chess|ness|assist|insist|"
    "consist|resist|persist|specimen|dress|press|business|address|possess|confess|impress|assess|obsess|undress|roman|german"
)
_COMPARATIVES = entries("closer|nearer|lower|higher|slower|faster|cooler|warmer|darker|lighter|clearer|longer|sharper")
_EMPTY = entries("good|nice|great|some|any|beautiful|normal|other|more|best|of|and|is|with|cool looking|proper|better")
_BEFORE_VERB = entries("he|she|they|it|who|you|i|we|to|and|make|makes|please")
_HEADS = {
    "lighting": entries("light|lights|glow|sun|gleam"),
    "camera": entries("shot|view|angle|framing|crop"),
    "style": entries("style|look|looks|aesthetic|palette|realism|tones|colours|colors|drama|photography|footage"),
}
_SUBJECT_REACHES = 6  # words between the beginning of a noun phrase and its noun
_PLACE_REACHES = 4  # words between a preposition and its noun


@dataclass(frozen=True, slots=True)
class Being:
    """Last being named in a sentence."""

    at: int  # its token
    plural: bool
    acts: bool = False  # something that it does was found


def being_at(tokens: list[str], first: int, last: int, word: str, *, known_person: bool) -> Being | None:
    """Tell if tokens `first` to `last` name a being.

    Args:
        tokens: of the prompt.
        first: first token of the words in question.
        last: last of them.
        word: the last of them as it is spelt right.
        known_person: whether the lexicon says that they are about a person; its looks and clothes are no being.
    """
    forms = noun_forms(word)
    named = known_person and (_is_agent(word) or in_class(forms, "person", "animal"))
    if not (named or set(forms) & (_MORE_BEINGS | _GROUPS)):
        return None
    before = tokens[max(0, first - 3) : first]
    plural = word in _PLURALS or len(noun_forms(tokens[last])) > 1 or bool(_PLURALS & set(before))
    return Being(last, plural)


def same_sentence(tokens: list[str], being: Being | None, i: int) -> Being | None:
    """Return the being if it stands in the sentence of token `i`."""
    return being if being is not None and not _SENTENCE_ENDS & set(tokens[being.at : i]) else None


def is_person(tokens: list[str], i: int) -> bool:
    """Tell if token `i`, a word outside the lexicon, is the person or animal that a clause is about."""
    word = tokens[i]
    forms = noun_forms(word)
    if word in _COMPARATIVES or _modifies(tokens, i):
        return False
    if not (_is_agent(word) or set(forms) & _GROUPS or in_class(forms, "person", "animal")):
        return False
    for j in range(i - 1, max(-1, i - 1 - _SUBJECT_REACHES), -1):
        if tokens[j] in _STOPS or tokens[j] in ("of", "as", "and"):
            return True
        if tokens[j] in _PREPOSITIONS:
            return False
    return True


def _is_agent(word: str) -> bool:
    """Tell if a word ends like one of a person."""
    return len(word) > 5 and word.endswith(_AGENTS) and word not in _NOT_AGENTS


def _modifies(tokens: list[str], i: int) -> bool:
    """Tell if a noun stands before another noun that it describes: "nurse station"."""
    after = tokens[i + 1] if i + 1 < len(tokens) else "."
    return in_class(noun_forms(after), "place", "clothes") and not in_class(base_forms(after), "verb", "verb or noun")


def is_action(tokens: list[str], i: int, being: Being | None) -> bool:
    """Tell if token `i`, a word outside the lexicon, is what a being does."""
    word = tokens[i]
    before = tokens[i - 1] if i else "."
    after = tokens[i + 1] if i + 1 < len(tokens) else "."
    if being is None or being.at >= i or before in _NOT_BEFORE_VERB:
        return False
    verb, noun = in_class(base_forms(word), "verb"), in_class(base_forms(word), "verb or noun")
    if not verb and not noun:
        return False
    direct = being.at == i - 1 or before == "who"
    if word.endswith("ing"):
        return True
    joined = before == "and" and (being.acts or verb)
    if word.endswith("s") and not word.endswith("ss"):
        follows_noun = after not in _STOPS and in_class(noun_forms(before), "clothes", "person", "animal")
        follows = after in _AFTER_VERB and before not in _STOPS
        return direct or joined or follows or (verb and after in _STOPS) or (follows_noun and not being.acts)
    if not being.plural or word.endswith("ed"):
        return False
    pair = after == "and" and i + 2 < len(tokens) and in_class((tokens[i + 2],), "verb", "verb or noun")
    return direct or pair or (joined and in_class((word,), "verb", "verb or noun"))


def is_surely_action(tokens: list[str], i: int, being: Being | None) -> bool:
    """Tell if token `i`, of which the lexicon knows another meaning, is a verb: "nuns ring the bells"."""
    after = tokens[i + 1] if i + 1 < len(tokens) else "."
    if being is None or after not in _DETERMINERS:
        return False
    return (tokens[i].endswith("s") or being.at == i - 1) and is_action(tokens, i, being)


def facet_of_head(tokens: list[str], i: int) -> str:
    """Return the facet of a noun such as "light", "shot" or "look" that a word before it describes, else ""."""
    before = tokens[i - 1] if i else "."
    after = tokens[i + 1] if i + 1 < len(tokens) else "."
    plain = before in _STOPS | _DETERMINERS | _PREPOSITIONS | _EMPTY or before in _BEFORE_VERB
    if plain or (tokens[i] in ("look", "looks", "shot", "lights") and after not in _STOPS):
        return ""
    return next((facet for facet, heads in _HEADS.items() if tokens[i] in heads), "")


def is_place(tokens: list[str], i: int) -> bool:
    """Tell if token `i`, a word outside the lexicon, is a place or a piece of furniture where somebody is."""
    near = tokens[max(0, i - _PLACE_REACHES) : i]
    return in_class(noun_forms(tokens[i]), "place") and bool(_PREPOSITIONS & set(near))


def is_worn(tokens: list[str], i: int, being: Being | None) -> bool:
    """Tell if token `i`, a word outside the lexicon, is a garment, a piece of jewelry or a hairdo of a being.

    Whatever the being is "in a", and is no place, is taken for a garment.
    """
    if being is None:
        return False
    between = tokens[being.at + 1 : i]
    inside = len(between) in (2, 3) and between[0] == "in" and between[1] in _DETERMINERS
    after = tokens[i + 1] if i + 1 < len(tokens) else "."
    last = after in _STOPS | _AFTER_VERB or (
        after.endswith("s") and in_class(base_forms(after), "verb", "verb or noun")
    )
    forms = noun_forms(tokens[i])
    return in_class(forms, "clothes") or (inside and last and not in_class(forms, "place"))
