"""Base forms of English words: of plurals, verb forms and adverbs."""

from functools import lru_cache


@lru_cache(maxsize=4096)
def noun_forms(word: str) -> tuple[str, ...]:
    """List a word and the nouns of which it may be the plural or the genitive."""
    word = word.removesuffix("'s").removesuffix("'")
    forms = [word]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        forms.append(word[:-1])
        if word.endswith("es"):
            forms.append(word[:-2])
        if word.endswith("ies"):
            forms.append(word[:-3] + "y")
        if word.endswith("ves"):
            forms += [word[:-3] + "f", word[:-3] + "fe"]
    if word.endswith("children"):
        forms.append(word[:-3])
    if word.endswith("men"):
        forms.append(word[:-3] + "man")
    return tuple(dict.fromkeys(forms + list(_IRREGULAR.get(word, ()))))


@lru_cache(maxsize=4096)
def base_forms(word: str) -> tuple[str, ...]:
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
        if stem != word and len(stem) >= 3:
            forms += [stem, stem + "e"]
            if stem[-1] == stem[-2]:
                forms.append(stem[:-1])
            if suffix == "ed" and stem.endswith("i"):
                forms.append(stem[:-1] + "y")
    return tuple(dict.fromkeys(forms + list(_IRREGULAR.get(word, ()))))


_IRREGULAR = {
    "women": ("woman",), "men": ("man",), "children": ("child",), "said": ("say",), "spoke": ("speak",),
    "told": ("tell",), "sang": ("sing",), "stood": ("stand",), "sat": ("sit",), "held": ("hold",), "led": ("lead",),
    "lying": ("lie",), "wears": ("wearing",), "wore": ("wearing",), "scarves": ("scarf",), "lips": ("lip",),
    "elves": ("elf",), "dwarves": ("dwarf",), "wrote": ("write",), "drew": ("draw",), "wept": ("weep",),
    "shook": ("shake",), "threw": ("throw",), "caught": ("catch",), "wiping": ("wipe",), "lit": ("lit",),
}  # fmt: skip
