"""Mapping of the speech synthesisers' phoneme symbols to the fourteen viseme classes of the corpus.

A *viseme class* is a mouth shape; `Viseme` numbers them, and `speech.json` stores the numbers.
An *event* is (start, end, class) in seconds. The mouth shapes themselves are in `visemes.py`.
"""

from collections.abc import Iterable
from enum import IntEnum

Event = tuple[float, float, int]


class Viseme(IntEnum):
    """Mouth shapes, named after the sounds that need them."""

    SIL = 0  # silence: closed at rest
    PBM = 1  # lips pressed: p b m
    FV = 2  # lower lip under the teeth: f v
    TH = 3
    TD = 4  # t d n l
    SZ = 5
    SH = 6  # sh zh ch j
    KG = 7  # k g h ng
    R = 8
    UW = 9  # rounded close: u w
    O = 10  # noqa: E741 - the name of the sound
    A = 11
    E = 12
    I = 13  # noqa: E741


# IPA, as espeak-ng, piper and Kokoro write it; the first character that is listed decides.
_IPA: dict[Viseme, str] = {
    Viseme.PBM: "pbmM", Viseme.FV: "fvɱ", Viseme.TH: "θð", Viseme.TD: "tdnlɾɫɬT", Viseme.SZ: "sz",
    Viseme.SH: "ʃʒʤʧ", Viseme.KG: "kɡgŋhxʔc", Viseme.R: "ɹrɚɝɜ", Viseme.UW: "uʊwʉ", Viseme.O: "oɔɒOQ",
    Viseme.A: "aɑæʌɐAIW", Viseme.E: "eɛəᵊE", Viseme.I: "iɪjᵻɨY",
}  # fmt: skip
IPA_CLASS: dict[str, Viseme] = {c: v for v, chars in _IPA.items() for c in chars}
# Kokoro writes diphthongs as capitals: A = eI, I = aI, W = aU, O and Q = oU, Y = OI; the longer half decides.
KOKORO_CLASS = {**IPA_CLASS, "A": Viseme.E, "I": Viseme.A, "W": Viseme.A, "O": Viseme.O, "Q": Viseme.O, "Y": Viseme.O}

_RADIO: dict[Viseme, str] = {
    Viseme.SIL: "pau", Viseme.PBM: "p b m em", Viseme.FV: "f v", Viseme.TH: "th dh", Viseme.TD: "t d n l dx el en nx",
    Viseme.SZ: "s z", Viseme.SH: "sh zh ch jh", Viseme.KG: "k g ng hh hv q", Viseme.R: "r er axr", Viseme.UW: "uw uh w",
    Viseme.O: "ao ow oy", Viseme.A: "aa ae ah aw ay", Viseme.E: "eh ey ax", Viseme.I: "iy ih ix y",
}  # fmt: skip
RADIO_CLASS: dict[str, Viseme] = {p: v for v, names in _RADIO.items() for p in names.split()}

# Sounds whose mouth shape changes inside the phoneme: (class of the first part, of the second), split at 60 %.
_GLIDE_IPA = {
    "aɪ": (Viseme.A, Viseme.I), "aʊ": (Viseme.A, Viseme.UW), "ɔɪ": (Viseme.O, Viseme.I), "eɪ": (Viseme.E, Viseme.I),
    "oʊ": (Viseme.O, Viseme.UW), "əʊ": (Viseme.O, Viseme.UW), "I": (Viseme.A, Viseme.I), "W": (Viseme.A, Viseme.UW),
    "Y": (Viseme.O, Viseme.I), "O": (Viseme.O, Viseme.UW), "Q": (Viseme.O, Viseme.UW), "A": (Viseme.E, Viseme.I),
}  # fmt: skip
_GLIDE_RADIO = {
    "aw": (Viseme.A, Viseme.UW), "ay": (Viseme.A, Viseme.I), "oy": (Viseme.O, Viseme.I), "ey": (Viseme.E, Viseme.I),
    "ow": (Viseme.O, Viseme.UW),
}  # fmt: skip
_GLIDE_SPLIT = 0.6


def _expand(start: float, end: float, glide: tuple[Viseme, Viseme]) -> list[Event]:
    middle = start + _GLIDE_SPLIT * (end - start)
    return [(start, middle, int(glide[0])), (middle, end, int(glide[1]))]


def ipa_class(symbol: str, kokoro: bool = False) -> Viseme | None:
    """Look up the class of an IPA symbol; None for a mark that is no sound (stress, length, punctuation)."""
    table = KOKORO_CLASS if kokoro else IPA_CLASS
    return next((table[c] for c in symbol if c in table), None)


def radio_events(phones: Iterable[tuple[str, float]]) -> list[Event]:
    """Convert CMU radio phones to events.

    Args:
        phones: (phone, end time in seconds) in order, the first one starting at 0.
    """
    events: list[Event] = []
    start = 0.0
    for phone, end in phones:
        if phone in _GLIDE_RADIO:
            events += _expand(start, end, _GLIDE_RADIO[phone])
        else:
            events.append((start, end, int(RADIO_CLASS.get(phone, Viseme.KG))))
        start = end
    return events


def espeak_events(onsets: Iterable[tuple[float, str]], end: float) -> list[Event]:
    """Convert espeak-ng phoneme onsets to events.

    Args:
        onsets: (time in seconds, IPA symbol), in order.
        end: length of the sound in seconds.
    """
    rows = list(onsets)
    times = [t for t, _ in rows] + [end]
    events: list[Event] = []
    for i, (start, symbol) in enumerate(rows):
        bare = symbol.strip("ˈˌː_ ")
        glide = next((g for name, g in _GLIDE_IPA.items() if len(name) > 1 and bare.startswith(name)), None)
        if glide is not None:
            events += _expand(start, times[i + 1], glide)
            continue
        viseme = ipa_class(symbol)
        if not bare:
            viseme = Viseme.SIL
        elif viseme is None:  # a modifier continues the sound before it
            viseme = Viseme(events[-1][2]) if events else Viseme.SIL
        events.append((start, times[i + 1], int(viseme)))
    return events


def aligned_events(symbols: Iterable[tuple[str, float]], kokoro: bool = False) -> list[Event]:
    """Convert a neural synthesiser's symbols with durations (piper, Kokoro) to events.

    Stress marks belong to the sound after them; length marks and spaces inside running speech to the one
    before; all other unlisted symbols (punctuation, padding at the ends) are silence.

    Args:
        symbols: (one symbol, its duration in seconds), in order, the first one starting at 0.
    """
    rows: list[list[float]] = []  # start, end, class
    names: list[str] = []
    time, pending, silent = 0.0, None, True
    for symbol, duration in symbols:
        end = time + duration
        viseme = ipa_class(symbol, kokoro)
        if symbol in ("ˈ", "ˌ"):
            pending = time if pending is None else pending
        elif symbol in ("ː", "ʲ", "̃", "̩") or (symbol == " " and not silent):
            if rows:
                rows[-1][1] = end
        elif viseme is None:
            rows.append([time, end, int(Viseme.SIL)])
            names.append("")
            silent, pending = True, None
        else:
            rows.append([time if pending is None else pending, end, int(viseme)])
            names.append(symbol)
            silent, pending = False, None
        time = end
    events: list[Event] = []
    for row, name in zip(rows, names, strict=True):
        if kokoro and name in _GLIDE_IPA:
            events += _expand(row[0], row[1], _GLIDE_IPA[name])
        else:
            events.append((row[0], row[1], int(row[2])))
    return events
