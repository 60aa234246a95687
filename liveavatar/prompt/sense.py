"""Faults of a prompt: words that contradict each other, lists of words without a sentence.

A *group* holds entries of both lexicons; two groups of a pair exclude each other.
"""

import re

from liveavatar.prompt import chinese, english
from liveavatar.prompt.camera_moves import camera_moves
from liveavatar.prompt.hits import Hit
from liveavatar.prompt.lexicon import entries

_STILL = entries("static camera|static shot|fixed camera|fixed shot|locked off|locked camera|tripod|still camera|"
                 "stationary camera|固定镜头|固定机位|镜头固定|镜头不动|静止镜头|定机位")  # fmt: skip
_MOVING = entries(
    "orbit|orbits|orbiting|camera orbits|pan|pans|panning|camera pans|dolly|tracking shot|tracking|handheld|zoom|"
    "zooms in|zooms out|zooming|push in|pull back|crane shot|drone shot|moving camera|shaky camera|whip pan|arc shot|"
    "crash zoom|steadicam|手持|推镜|拉镜|推近|拉远|摇镜|移镜|跟拍|跟随镜头|环绕|航拍|变焦|镜头推进|"
    "镜头拉远|镜头环绕|镜头跟随|镜头摇移|推拉|升降|晃动"
)
_NEAR = entries("close up|closeup|extreme close up|tight shot|close shot|macro shot|特写|大特写|中特写|大头照")
_FAR = entries("wide shot|long shot|full shot|full body|full length|establishing shot|远景|全景|全身|全身像")
_DARK = entries("pitch dark|pitch black|darkness|midnight|at night|night|dark|漆黑|黑暗|深夜|夜色")
_BRIGHT = entries(
    "sunshine|sunlight|bright sunshine|daylight|noon|midday|harsh sun|sunny|烈日|阳光|阳光明媚|日光|正午|晴天"
)
_REAL = entries("photorealistic|realistic|hyperrealistic|photo real|hyperreal|photo realistic|lifelike|documentary|"
                "写实|超写实|照片级|真实感|逼真|纪录片|纪实")  # fmt: skip
_DRAWN = entries(
    "anime|manga|cartoon|comic|comic book|pixel art|cel shaded|claymation|low poly|动漫|卡通|漫画|二次元|像素|黏土"
)
_GREY = entries("black and white|monochrome|sepia|黑白|单色|黑白片")
_COLOURFUL = entries(
    "vivid color|vivid colour|vivid colors|vivid colours|rainbow color|rainbow colour|rainbow|saturated|colorful|"
    "colourful|色彩鲜艳|高饱和|色彩绚丽|五彩|彩虹色"
)
_GLAD = entries(
    "happy|happily|joyful|cheerful|cheerfully|delighted|ecstatic|joy|happiness|开心|快乐|高兴|欢快|喜悦|欢乐|欣喜"
)
_GRIM = entries(
    "sad|sadly|angry|angrily|furious|melancholic|gloomy|mournful|sadness|anger|悲伤|伤心|愤怒|生气|"
    "忧郁|难过|悲痛|忧伤|暴怒"
)
_CALM = entries("calm|calmly|serene|peaceful|relaxed|平静|冷静|宁静|放松|平和|安详")
_WILD = entries("furious|angry|rage|ecstatic|愤怒|暴怒|狂怒|激动")
_INDOORS = entries("indoor|indoors|interior|室内|屋内")
_OUTDOORS = entries("outdoor|outdoors|exterior|室外|户外|屋外")
_PAIRS = (
    ("camera", _STILL, _MOVING), ("camera", _NEAR, _FAR), ("lighting", _DARK, _BRIGHT), ("style", _REAL, _DRAWN),
    ("style", _GREY, _COLOURFUL), ("mood", _GLAD, _GRIM), ("mood", _CALM, _WILD), ("setting", _INDOORS, _OUTDOORS),
)  # fmt: skip
_CHUNKS = re.compile(r"[,.;|/\n，。；、|]+")
_LONG_LIST = 6  # entries


def contradictions(hits: list[Hit], text: str) -> list[tuple[str, str, str]]:
    """Find contradictions: (facet, entry, entry that excludes it).

    Args:
        hits: of the prompt, negated ones left out.
        text: the prompt in lower case; "deep at night" may stand beside an entry without being one.
    """
    said = [h.entry for h in hits]
    if re.search(r"\bmidnight\b|\bat night\b|深夜|午夜", text):
        said.append("midnight")
    camera = camera_moves(text)
    found = []
    for facet, one, other in _PAIRS:
        first, second = [e for e in said if e in one], [e for e in said if e in other]
        if facet == "camera" and one is _STILL:
            first, second = [*first, *filter(None, [camera.stays])], [*second, *filter(None, [camera.moves])]
        if first and second:
            found.append((facet, first[0], second[0]))
    return found


def of_the_person(hits: list[Hit], text: str) -> list[Hit]:
    """Leave out the actions of the camera: "the camera follows" says nothing of the person.

    Args:
        hits: of the prompt.
        text: the prompt in lower case.
    """
    ranges = [(count_words(text[:start]), count_words(text[:end])) for start, end in camera_moves(text).spans]

    def of_the_camera(hit: Hit) -> bool:
        acts = [facet for facet, _ in hit.places] == ["action"]
        return acts and any(first <= hit.at < end for first, end in ranges)

    return [hit for hit in hits if not of_the_camera(hit)]


def count_words(text: str) -> int:
    """Count English words and Chinese characters of lower-case text, as `Hit.at` does in a prompt of one language."""
    return len(english.words_of(text)) + len(chinese.HAN.findall(text))


def excluded(facet: str, entry: str) -> bool:
    """Tell if an entry belongs to a pair of groups of this facet that exclude each other."""
    return any(facet == f and (entry in one or entry in other) for f, one, other in _PAIRS)


def is_word_list(text: str, hits: list[Hit]) -> bool:
    """Tell if a prompt is a list of unconnected words rather than a description.

    Such a list has no function words, at least six entries, and either jumps between the facets, names one facet
    only, or names no being.
    """
    words = english.words_of(text)
    if len(hits) < _LONG_LIST - 1 or any(w in english.FUNCTION_WORDS for w in words):
        return False
    chunks = [c.strip() for c in _CHUNKS.split(text) if c.strip()]
    han = chinese.HAN.findall(text)
    if han and not words:
        parts = [p for chunk in chunks for p in chunk.split()]
        share = sum(c in chinese.FUNCTION_WORDS for c in han) / len(han)
        glued = len(parts) == 1 and len(han) >= 2 * _LONG_LIST and len(_facets_in_turn(hits)) == 1
        return share <= 0.02 and (glued or (len(parts) >= _LONG_LIST and sum(map(len, parts)) / len(parts) <= 2.8))
    if len(hits) < _LONG_LIST or any(c in chinese.FUNCTION_WORDS for c in han):
        return False
    turns = _facets_in_turn(hits)
    jumps = len(turns) - len(set(turns))
    if len(chunks) > 1:
        per_chunk = len(words) / len(chunks)
        return per_chunk <= 1.4 and len(chunks) >= _LONG_LIST and (jumps >= 2 or not any(_is_being(h) for h in hits))
    return jumps >= 2 or len(set(turns)) == 1 or len(turns) >= 0.75 * len(hits)


def _facets_in_turn(hits: list[Hit]) -> list[str]:
    turns: list[str] = []
    for hit in hits:
        facets = hit.specific or [facet for facet, _ in hit.places]
        facet = turns[-1] if turns and turns[-1] in facets else facets[0]
        if not turns or turns[-1] != facet:
            turns.append(facet)
    return turns


_BEINGS = entries("woman|man|person|girl|boy|child|lady|gentleman|male|female|presenter|host|character")


def _is_being(hit: Hit) -> bool:
    return hit.entry in _BEINGS
