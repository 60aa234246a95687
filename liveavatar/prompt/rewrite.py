"""A fuller prompt from the user's own words: they stay as they are, and facets they leave out are added.

What is added names no person and nothing that a person looks like, and no facet that the user excluded ("no
lighting"). Prompts that contradict themselves, list words or are in another language are not rewritten.
"""

import unicodedata

from liveavatar.prompt.check import PromptReport, check_prompt
from liveavatar.prompt.lookup import find_hits

AUTO = "auto"  # a prompt that begins with it and a colon is rewritten
# Facets in the order of their sentences; `person` only where nothing at all was said
_ADDED = {
    "en": {
        "person": "A person speaks to the camera",
        "action": "They look into the camera, speak calmly, nod and gesture with open palms",
        "camera": "Head-and-shoulders close-up, eye level, static camera",
        "setting": "A plain quiet room behind them",
        "lighting": "Soft window light from the left, gentle shadows",
        "style": "Photorealistic, natural colours",
        "mood": "Calm and friendly",
    },
    "zh": {
        "person": "一个人对着镜头说话",
        "action": "看着镜头平静地讲解，点头，并用手势强调",
        "camera": "头肩近景，平视，固定机位",
        "setting": "背景是安静的房间",
        "lighting": "左侧柔和的窗光，阴影柔和",
        "style": "写实，自然色彩",
        "mood": "平静而亲切",
    },
}
_ENDS = ".!?。！？"


def rewrite(text: str, report: PromptReport | None = None) -> str | None:
    """Add to a prompt what it leaves out; None where nothing is missing or it cannot be rewritten.

    Args:
        text: of the user, kept word for word at the beginning.
        report: of the same text, where it is known.

    Raises:
        InputError: for the reasons of `check_prompt`.
    """
    report = check_prompt(text) if report is None else report
    if report.problems or report.grade == "unknown":
        return None
    words, excluded = _ADDED[report.language], _excluded(text)
    missing = [f for f in words if f in report.missing and f != "person" and f not in excluded]
    return _joined(text, [words[f] for f in missing], report.language) if missing else None


def automatic(prompt: str) -> str:
    """Return the prompt that `auto` stands for: of the words behind "auto:", or of nobody in particular.

    Raises:
        ValueError: the words cannot be rewritten; says why.
    """
    start, _, rest = prompt.strip().partition(":")
    if start.strip().lower() != AUTO:
        return prompt
    text = rest.strip()
    if not text:
        return _joined("", [_ADDED["en"][f] for f in _ADDED["en"] if f != "action"], "en")
    report = check_prompt(text)
    if report.problems or report.grade == "unknown":
        why = report.problems[0] if report.problems else "it is in a language that is not known"
        raise ValueError(f"cannot be rewritten by `auto`: {why}; give it without `auto:`")
    return rewrite(text, report) or text


def _excluded(text: str) -> set[str]:
    """Find the facets that the user does not want, such as lighting in "no lighting"."""
    clean = unicodedata.normalize("NFKC", text).lower()
    return {facet for hit in find_hits(clean) if hit.negated for facet, _ in hit.places}


def _joined(text: str, sentences: list[str], language: str) -> str:
    stop, space = ("。", "") if language == "zh" else (".", " ")
    text = text.strip().rstrip(",;，；、")
    if text and text[-1] not in _ENDS:
        text += stop
    return space.join(filter(None, [text, *(f"{sentence}{stop}" for sentence in sentences)]))
