"""Movements of the camera that a prompt tells in a sentence: "the camera slowly circles around her", "镜头绕着她转".

Owns these phrases. What the camera does is no action of the person, and a camera that moves is not a still one.
"""

import re
from dataclasses import dataclass

_NEGATED = re.compile(  # just before: "no visible camera shake"
    r"\b(?:no|not|never|without|any|minimal|zero|little|avoid|barely|hardly|isn't|nor)\b[^,.;]{0,24}$"
    "|(?:无|没有|不要|不需要|避免|禁止)[^，。；,.;]{0,6}$"
)
_STEMS = (
    r"circl|mov|glid|fli|fly|swoop|rotat|spin|whirl|drift|track|push|pull|ris|rose|descend|swing|sway|shak|sweep|"
    r"revolv|travel|slid|orbit|pann?|tilt|zoom|dolli|dolly|arc|truck|cran|wander|float|follow|jerk|wobbl|div|spiral|"
    r"bounc|turn|rush|creep|crawl|approach|retreat|climb"
)
_CAMERA = r"(?:camera|lens|drone|viewpoint)"
_MOVES = re.compile(
    rf"\b{_CAMERA}\s+(?:(?:then|is|keeps|starts|begins|constantly|always|to|slowly|\w+ly)\s+)*"
    rf"(?:{_STEMS})(?:e|s|es|ies|ing|ning|ming|ping)?\b"
    rf"|\b(?:{_STEMS})(?:ing|ning)\s+{_CAMERA}(?:\s+(?:moves?|movements?|motion|work))?\b"
    rf"|\b{_CAMERA}\s+(?:movements?|motion|moves?|shake|shaking)\b"
)
_STAYS = re.compile(
    rf"\b{_CAMERA}\s+(?:(?:never|doesn't|does not|must not|should not|won't|will not)\s+(?:move|pan|shake|tilt|zoom)s?"
    r"|(?:(?:is|stays|remains|keeps|holds|stands)\s+)(?:\w+ly\s+)?(?:still|static|fixed|motionless|locked|steady|put|stationary))\b"
)
_ZH_CAMERA = "(?:镜头|摄像机|摄影机|相机|机位)"
_ZH_NOT = "[^，。；、！？,.;不没无未别勿固静定]"
_ZH_MOVES = re.compile(
    f"{_ZH_CAMERA}{_ZH_NOT}{{0,5}}?(?:围绕|环绕|绕|旋转|移动|推进|推近|拉近|拉远|后退|摇晃|晃动|抖动|平移|跟随|跟拍|升起|升高|"
    "下降|俯冲|飞过|飞越|滑动|游走|甩动|摇移|横移|运动)"
)
_ZH_STAYS = re.compile(f"{_ZH_CAMERA}(?:始终|一直|全程|完全|保持)*(?:静止|固定|不动|不移动|不晃动|不摇晃|稳定不动)")


@dataclass(frozen=True, slots=True)
class CameraMoves:
    """Phrases about the camera, "" where there is none, and where in the text they stand."""

    moves: str
    stays: str
    spans: tuple[tuple[int, int], ...]


def camera_moves(text: str) -> CameraMoves:
    """Find what a lower-case prompt, in English or simplified Chinese, says that the camera does."""
    stays = [m for pattern in (_STAYS, _ZH_STAYS) for m in pattern.finditer(text)]
    still = [m.span() for m in stays]
    moves = [
        m
        for pattern in (_MOVES, _ZH_MOVES)
        for m in pattern.finditer(text)
        if not any(a < m.end() and b > m.start() for a, b in still) and not _NEGATED.search(text[: m.start()])
    ]
    return CameraMoves(
        moves=moves[0][0].strip() if moves else "",
        stays=stays[0][0].strip() if stays else "",
        spans=tuple(sorted(m.span() for m in [*moves, *stays])),
    )
