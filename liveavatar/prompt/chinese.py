"""Chinese prompts: traditional characters, words inside other words, misspelt words, negated words.

Owns how Chinese text becomes lexicon entries: the longest entry first at each place, among them words that only look
like an entry (`_OTHER_WORDS`: the mountain of a province, the light of an honour). A single character counts only
where a word begins and ends. Knows no grades.
"""

import re
from functools import lru_cache

from liveavatar.prompt.chinese_grammar import beings_and_actions, is_of_a_work
from liveavatar.prompt.hits import Hit, Places, index_of
from liveavatar.prompt.lexicon import entries
from liveavatar.prompt.traditional import TO_SIMPLIFIED

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
FUNCTION_WORDS = frozenset("的在着了和与地得是把被从向朝对一位个只名")
_NEGATORS = sorted(
    entries("没有|不要|不是|不戴|不带|不穿|毫无|缺少|缺乏|去掉|避免|"
            "禁止|拒绝|从不|并非|未曾|没|无|不|别|未"),
    key=len, reverse=True,
)  # fmt: skip
_NEGATED = 8  # characters that a negation reaches at most
_STOPS = frozenset("，。；、！？,.;!? \n但而却的")
_BEFORE = frozenset("在的下有着个座片场束大小里边从对与和向朝一位只名条是、，。；,.; \n到于把用上轻")
_AFTER = frozenset("上下中里边前后旁的和与时内外，。；、,.; \n地着了起在")
_OTHER_WORDS = entries(
    "山西|山东|中山|江山|山寨|岁月|光荣|光阴|光盘|时光|观光|风光|光临|眼光|目光短浅|借光|光滑|光速|"
    "光学|光纤|说明|说明书|小说|传说|据说|听说|学说|"
    "说法|说服|动机|动力|自动|运动会|活动|动物|动态|行动计划|劳动|移动|推动力|推动|启动|雨伞|雨刷|"
    "谷雨|雪花|雪糕|雪碧|滑雪板|桥梁|石桥镇|亮点|漂亮话|"
    "墙报|专业人士|专业课|发光材料|市场报告|市场部|市场营销|股票市场|人民|人工|人类学|人口|人事|"
    "法人|人才|云计算|云南|云端服务|云飞|湖南|湖北|江湖|"
    "雾霾|迷雾重重|喝彩|笑话|笑柄|穿越|穿插|戴高乐|灯塔国|吃惊|吃力|吃亏|吃香|跑车|跑道|跳槽|跳板|"
    "推荐信|推理|推特|拉丁|拉萨|拖延|种类|各种|"
    "一种|这种|那种|多种|尝试|睡眠|骑士团|爬虫|吹嘘|吹牛|挥霍|织女|缝隙|烤箱|醒目|跪求|瞪羚|龙头|"
    "龙头企业|恐龙|水龙头|猫腻|热狗|狗粮|猫粮|熊市|狐狸精|"
    "天使投资|特写稿|镜头盖|风格化|背景音乐|背景调查|中国|全景天窗|塔罗|渲染气氛|高清晰|真实性|"
    "自然科学|自然语言|自然界|自然光|希望小学|严肃性|"
    "公司|表情包|胖嘟嘟的云|瘦身|无边|高光时刻|聚光灯下的生活|照片墙|电影票|电影院|动画公司|油画布|"
    "银行|喝止|光年|敲诈|敲定|"
    "不停|不断|不时|不禁|忍不住|情不自禁|不仅|不但|不同|不错|不安|不屑|不耐烦|不慌不忙|不苟言笑|"
    "不好意思|无比|无限|无奈|无聊|无辜|无框眼镜|"
    "面无表情|无袖|特别|别墅|区别|告别|性别|离别|分别|别致|别针|未来|未婚|没错|无人机|无论|不由得|"
    "不少|不一会儿|了不起"
)  # fmt: skip
_KEPT_WORDS = entries("不耐烦|不安|面无表情|不屑|无聊|中国|云端|未来感|别墅|自然光|电影院|吃惊|银行")
_PLAIN = frozenset("一二三四五六七八九十的了在是我有和就不人他她它这那")


def find(text: str) -> list[Hit]:
    """Find lexicon entries in Chinese text, simplified or traditional."""
    text = simplified(text)
    index, longest = _index()
    negated = _negated(text)
    hits: list[Hit] = []
    spans: list[tuple[int, int, str]] = []
    i = at = 0
    while i < len(text):
        entry = next((text[i : i + n] for n in range(longest, 0, -1) if text[i : i + n] in index), "")
        if len(entry) == 1 and not _stands_alone(text, i):
            entry = ""
        places = index[entry] if entry else _misspelt(text[i : i + 2])
        if places and ("person", False) in places and is_of_a_work(text, i + (len(entry) or 2)):
            places = None
        step = len(entry) or (2 if places else 1)
        if places:
            hits.append(Hit(entry=entry or text[i : i + 2], places=places, at=at, negated=negated[i]))
        if entry or places:
            facets = [f for f, generic in places or [] if not generic or f in ("person", "action")]
            spans.append((i, i + step, next((f for f in ("person", "action") if f in facets), "".join(facets[:1]))))
        at += sum(map(bool, map(HAN.match, text[i : i + step])))
        i += step
    for place, facet, words in beings_and_actions(text, spans):
        before = len(HAN.findall(text[:place]))
        hits.append(Hit(entry=words, places=[(facet, False)], at=before, negated=negated[place]))
    return sorted(hits, key=lambda h: h.at)


def simplified(text: str) -> str:
    """Replace the traditional characters of the lexicon's words by simplified ones."""
    return text.translate(TO_SIMPLIFIED)


@lru_cache(maxsize=1)
def _index() -> tuple[dict[str, Places], int]:
    index = {word: list[tuple[str, bool]]() for word in _OTHER_WORDS - _KEPT_WORDS}
    index.update(index_of("zh"))
    return index, max(map(len, index))


def _stands_alone(text: str, i: int) -> bool:
    before = text[i - 1] if i else "，"
    after = text[i + 1] if i + 1 < len(text) else "，"
    return (before in _BEFORE or not HAN.match(before)) and (after in _AFTER or not HAN.match(after))


def _negated(text: str) -> list[bool]:
    """Mark the characters that a negation covers."""
    marks = [False] * len(text)
    i = 0
    others = sorted((w for w in _OTHER_WORDS if any(n in w for n in ("不", "无", "别", "没", "未"))), key=len)[::-1]
    while i < len(text):
        other = next((w for w in others if text.startswith(w, i)), "")
        if other:
            i += len(other)
            continue
        word = next((n for n in _NEGATORS if text.startswith(n, i)), "")
        if word:
            j = i + len(word)
            while j < min(len(text), i + len(word) + _NEGATED) and text[j] not in _STOPS:
                marks[j] = True
                j += 1
            i += len(word)
        else:
            i += 1
    return marks


# Characters that people type for one another: the same sound or nearly the same shape.
_ALIKE = entries(
    "境镜景竟|子孑孓字|感惑敢|厨橱|讲奖|介解界|首手守|年青轻|微徽薇|笑肖|灯登|柔揉|"
    "带戴代|特持|写泻|头投|点店|挥辉|衫杉|帽冒|胡湖|须需|眼银|阳杨扬|"
    "光广|办半|园圆|院苑|演延|景井|严言|肃素|悲卑|伤商|愤奋|努怒|"
    "静净"
)


def _misspelt(pair: str) -> Places | None:
    """Find the two-character entry that a pair becomes when one character is replaced by one that looks alike."""
    if len(pair) < 2 or pair[0] == pair[1] or not all(map(HAN.match, pair)) or pair[0] in _PLAIN or pair[1] in _PLAIN:
        return None
    for k in (0, 1):
        for group in _ALIKE:
            if pair[k] in group:
                for other in group:
                    word = pair[:k] + other + pair[k + 1 :]
                    if word in index_of("zh"):
                        return index_of("zh")[word]
    return None
