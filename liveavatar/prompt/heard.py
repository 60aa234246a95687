"""Words of a prompt that the embedded model hears: its facets, in the phrases that the model was taught.

The model reads few words, and a word that it never met falls into the bucket of another. So a prompt is written anew
from its own facets: who, what is worn, how it is said, mood, light, place, style, each as a phrase of the training
captions. A prompt that fits, speaks in those phrases and holds next to no unknown words is read as it is.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from liveavatar.prompt import chinese, english
from liveavatar.prompt.forms import base_forms
from liveavatar.prompt.heard_words import COLOURS, GARMENTS, OTHER_WORDS, SLOTS, TAUGHT
from liveavatar.prompt.hits import Hit
from liveavatar.prompt.lexicon import entries
from liveavatar.prompt.lookup import find_hits

_WORD = re.compile(r"[a-z0-9]+|[\u3400-\u9fff]")  # as the model's tokenizer cuts
_KNOWN = 0.9  # share of known words from which a prompt is read as it is
_NAMED = 8  # unheard words in the line at most
_STYLES = 2  # phrases of style at most
_PARTS = entries("a plain|a gradient background|a mottled|plain grey studio|smiling|is talking|calm eyes")
_LINKS = entries("wearing|wears|wear|dressed in|clothed in|portrait of|having|look|looks")  # name nothing to be heard
_VOWEL = re.compile(r"\ba (?=[aeiou])")
# "dark" of hair or clothes is no light
_SKY_BLUE = re.compile(r"\bsky[- ]blue\b")
_DARK_THING = re.compile(
    r"\bdark[- ](?=(?:brown|gr[ea]y|blue|green|red|hair|haired|skin|skinned|eyes|suit|jacket|coat|dress)\b)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """Text that a model reads of a prompt; JSON-able through `dataclasses.asdict`."""

    text: str  # what is encoded
    as_written: bool  # it is the prompt itself
    phrases: dict[str, str]  # of the prompt's words: the phrase that stands for them
    unheard: list[str]  # words of the prompt that stand for nothing
    line: str  # for the console; "" when all of it is read as it is written


@lru_cache(maxsize=256)
def hear(prompt: str, length: int) -> Heard:
    """Write a prompt in the phrases that the embedded model knows.

    Args:
        prompt: of the user, English or Chinese.
        length: words that the model reads.
    """
    clean = unicodedata.normalize("NFKC", prompt).lower().replace("\u2019", "'")
    words = _WORD.findall(clean)
    unknown = [word for word in words if word not in OTHER_WORDS]
    hits = [hit for hit in find_hits(_SKY_BLUE.sub("blue", _DARK_THING.sub("", clean))) if not hit.negated]
    found = _phrases(hits, clean)
    taught = all(any(phrase in clean for phrase in TAUGHT[slot]) for slot in TAUGHT if slot in found)
    if taught and len(words) <= length and len(unknown) <= (1 - _KNOWN) * len(words):
        return Heard(text=prompt, as_written=True, phrases={}, unheard=list(dict.fromkeys(unknown)), line="")
    text = _fitting(found, length)
    kept = {words: phrase for slot in found.values() for words, phrase in slot}
    said = " ".join(kept)
    unheard = [h.entry for h in hits if h.specific and h.entry not in kept and h.entry not in said]
    silent = _LINKS | {*said.split()}
    unheard = [word for word in dict.fromkeys([*unheard, *_strange(clean, hits)]) if word not in silent]
    lost = f"; not heard: {', '.join(unheard[:_NAMED])}" + ", ..." * (len(unheard) > _NAMED) if unheard else ""
    line = f"the model hears: {text}{lost}"
    return Heard(text=text, as_written=False, phrases=kept, unheard=unheard, line=line)


def _strange(clean: str, hits: list[Hit]) -> list[str]:
    """List the words that no lexicon holds and the model does not know; of English text only."""
    said = {word for hit in hits for word in hit.entry.split()}
    names = english.FUNCTION_WORDS | OTHER_WORDS | said
    return [w for w in english.words_of(clean) if not names & set(base_forms(w))]


def _phrases(hits: list[Hit], clean: str) -> dict[str, list[tuple[str, str]]]:
    """Find for every slot the entries of the prompt and the phrases that stand for them."""
    simple = chinese.simplified(clean)
    found: dict[str, list[tuple[str, str]]] = {}
    for slot, taught in TAUGHT.items():
        literal = next((p for p in sorted(taught, key=len, reverse=True) if p in clean and p not in _PARTS), "")
        if literal:
            found[slot] = [(literal, literal)]
    for slot, phrases in SLOTS.items():
        if slot in found:
            continue
        colour = _colour_before(simple, slot) if slot == "place" else ""
        for hit in hits:
            phrase = next((p for p, said in phrases.items() if said.intersection(base_forms(hit.entry))), "")
            taken = [p for _, p in found.get(slot, [])]
            if phrase and (not taken or phrase in taken or (slot == "style" and len(taken) < _STYLES)):
                found.setdefault(slot, []).append((hit.entry, phrase.format(colour=colour or "light grey")))
    clothes = _clothes(hits, simple)
    if clothes:
        found["clothes"] = [clothes]
    eyes = re.search(r"\b(blue|green|brown|grey|hazel)[- ]eye", simple)
    if eyes:
        found["eyes"] = [(eyes[0], f"{eyes[1]} eyes")]
    hair = re.search(r"\b(dark brown|light brown|black|brown|blond|red|grey|white)\s+(?:\w+\s+)?hair", simple)
    if hair and "hair colour" not in found:
        found["hair colour"] = [(hair[0], hair[1])]
    return found


def _colour_before(simple: str, slot: str) -> str:
    """Find the colour of the background: "a teal wall", "蓝色背景"."""
    for name, words in COLOURS.items():
        for word in sorted(entries(words), key=len, reverse=True):
            behind = r"\s+(?:\w+\s+)?(?:background|backdrop|wall|curtain|studio|canvas|room)"
            pattern = rf"\b{word}{behind}" if word.isascii() else f"{word}的?(?:背景|墙|窗帘|幕布|影棚|房间|画布)"
            if re.search(pattern, simple):
                return "light grey" if name == "grey" else name
    return ""


def _clothes(hits: list[Hit], simple: str) -> tuple[str, str] | None:
    for hit in hits:
        for garment, said in GARMENTS.items():
            if hit.entry not in said:
                continue
            nearest, found = (0, 0), None
            for name, words in COLOURS.items():
                for word in entries(words):
                    pattern = (
                        rf"\b{word}(?=[\w\s-]{{0,20}}\b{hit.entry})"
                        if word.isascii()
                        else f"{word}(?=.{{0,3}}{hit.entry})"
                    )
                    for match in re.finditer(pattern, simple):
                        if (match.end(), len(word)) > nearest:
                            colour = "light grey" if name == "grey" else name
                            nearest, found = (match.end(), len(word)), (f"{word} {hit.entry}", f"a {colour} {garment}")
            if found is not None:
                return found
    return None


def _fitting(found: dict[str, list[tuple[str, str]]], length: int) -> str:
    """Write the caption with as many slots as fit: person, energy, mood, light and place first."""
    order = ["energy", "mood", "light", "place", "gender", "clothes", "hair", "hair colour", "style", "eyes", "age"]
    kept: set[str] = set()
    for slot in order:
        if slot in found and len(_WORD.findall(_caption(found, {*kept, slot}).lower())) <= length:
            kept.add(slot)
    return _caption(found, kept)


def _caption(found: dict[str, list[tuple[str, str]]], kept: set[str]) -> str:
    first = {slot: phrases[0][1] for slot, phrases in found.items() if slot in kept}
    person = " ".join(filter(None, ("a", first.get("age", ""), first.get("gender", "person"))))
    hair = first.get("hair", "")
    if "hair colour" in first:
        colour = first["hair colour"]
        hair = (
            f"{colour} hair" if not hair else re.sub(r"(hair|bob|ponytail|afro|buzz)", rf"{colour} \1", hair, count=1)
        )
    looks = " and ".join(filter(None, (hair, first.get("eyes", ""))))
    subject = (
        person + (f" with {looks}" if looks else "") + (f" wearing {first['clothes']}" if "clothes" in first else "")
    )
    head = " ".join(filter(None, (subject, first.get("energy", "speaks to the camera"), first.get("mood", ""))))
    styles = [phrase for _, phrase in found.get("style", [])] if "style" in kept else []
    parts = [head, first.get("light", ""), first.get("place", ""), *dict.fromkeys(styles)]
    text = _VOWEL.sub("an ", ", ".join(filter(None, parts)))
    return text[0].upper() + text[1:] + "."
