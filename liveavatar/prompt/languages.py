"""Language of a prompt: English, Chinese, or one that the check cannot judge."""

import re
import unicodedata

from liveavatar.prompt.chinese import HAN
from liveavatar.prompt.lexicon import entries

_OTHER_WORDS = entries(
    "el|la|los|las|una|uno|del|con|y|que|para|su|muy|es|una|por|der|die|das|ein|eine|einen|mit|und|ist|"
    "nicht|im|dem|den|von|zu|auf|le|les|une|des|du|et|avec|dans|aux|sur|est|il|elle|uno|gli|della|che|di|"
    "e|per|sono|com|uma|um|da|na|em|een|het|van|met|en|op|jest|na|z|się|ve|bir|ile|bu|och|med|ett|på|som|"
    "og|den|til|ja|on|että|và|một|với|"
    "un|unas|unos|al|se|sus|nel|nella|alla|ses|chez|qui|ao|dos|das|seu|sua|zum|zur|einem|einer|sich|uit|bij|zijn|"
    "w|po|nie|jego|jej|swoim|czyta|v|ve|ze|pro|u|sa|iz|je|kod|cu|și|si|despre|ei|lui|egy|és|az|yang|dan|di|dengan|"
    "seorang|ang|ng|sa|ay|mwenye|kwa|katika|amb|och|hon|han|hun|på|av|ja|ei|ir|su|kan|ja"
)
# Who talks, and that they talk: a short prompt may have no other word that tells its language.
_OTHER_SPEAKERS = entries(
    "hombre|mujer|niño|niña|chica|chico|habla|hablando|uomo|donna|ragazza|ragazzo|parla|homme|femme|fille|garçon|"
    "parle|vieil|mann|frau|mädchen|junge|spricht|redet|homem|mulher|menina|menino|fala|velho|vrouw|meisje|jongen|praat|"
    "spreekt|kobieta|mężczyzna|dziewczyna|mówi|opowiada|žena|muž|mluví|čovek|starec|govori|femeie|femeia|bărbat|"
    "barbat|vorbește|vorbeste|férfi|beszél|wanita|pria|berbicara|perempuan|babae|lalaki|mwanamke|mwanaume|"
    "anazungumza|anaongea|dona|kvinna|talar|kvinde|taler|kvinne|snakker|nainen|mies|puhuu|naine|räägib|moteris|kalba|"
    "kadın|kadin|adam|erkek|konuşuyor|konusuyor"
) - entries("adam|dona|mann")
_ENGLISH_WORDS = entries(
    "a|an|the|and|in|on|with|of|at|is|are|his|her|who|to|from|behind|wearing|he|she|man|woman|no|not|by|"
    "for|as|it|i|do|don't|want|i'm|you|your|this|that|isn't"
)
_LATIN = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")


def language_of(text: str, num_words: int, num_known: int) -> str:
    """Tell the language of lower-case text: "en", "zh" or "other".

    Args:
        text: the prompt.
        num_words: its English-looking words.
        num_known: how many entries of the lexicons it holds.
    """
    letters = [c for c in text if c.isalpha()]
    kana = sum("\u3040" <= c <= "\u30ff" for c in letters)
    han = sum(bool(HAN.match(c)) for c in letters)
    latin = sum(unicodedata.name(c, "").startswith("LATIN") for c in letters)
    if 2 * (len(letters) - han - latin) > len(letters) or kana > 0.15 * (han + kana):
        return "other"
    if han > num_words:
        return "zh"
    words = _LATIN.findall(text)
    foreign = sum((w in _OTHER_WORDS or w in _OTHER_SPEAKERS) and w not in _ENGLISH_WORDS for w in words)
    english = sum(w in _ENGLISH_WORDS for w in words)
    accented = sum(not w.isascii() for w in words)
    strange = foreign + accented
    if words and not han and strange > english and strange >= max(1, 0.12 * len(words)) and num_known < len(words) / 2:
        return "other"
    return "en" if num_words else "other"
