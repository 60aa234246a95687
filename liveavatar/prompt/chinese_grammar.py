"""Chinese words by their place in the clause: who the subject is, and that it does something.

Judges what the lexicon lacks: a noun that ends like one of a trade, a people or an animal, at the beginning of a clause
or after a measure word or 的, is a being; what follows a being is what it does, unless it tells its looks.
"""

import re

from liveavatar.prompt.lexicon import entries
from liveavatar.prompt.word_classes import verb_at

Span = tuple[int, int, str]  # of a lexicon entry: first character, end, facet
Found = tuple[int, str, str]  # first character, facet, words

_ONLY_BEINGS = "位名头匹家"  # measure words of beings alone
_HAN = "[\u3400-\u4dbf\u4e00-\u9fff]"
_PERSON_ENDINGS = "者员师家手工匠人长夫娘客农徒童叟郎女友民兵将官贩商翁婆爷奶妈爸哥姐弟妹嫂汉丁佬士孩仔姑医人差娃巫"
_ANIMAL_ENDINGS = (
    "鸟雀鸦鹅鸡鸭鹰鸽鹤鹭鸥燕猫狗犬狐狼熊虎豹狮象鹿马驴骡牛羊猪兔鼠猴猿鱼鲸鲨豚龟蛇蛙蜥蝶蜂蟹虾貂獾獭鹉猩猬"
)
_OTHER_BEINGS = entries(
    "师傅|老板|学生|医生|先生|女生|男生|主播|主持|模特|狐狸|熊猫|孩子|男子|女子|妻子|宝宝|"
    "王子|小伙子|国王|女王|公主|导演|教练|警察|护士|保安|司机|明星|乐队|他|她|他们|她们|龙|独角兽|和尚|尼姑|神父|儿童|少年|老人|女人|男人|裁判|侦探|海盗|导游|总裁|经理|秘书|会计|小丑|书生|皇帝|皇后|巫师|骑士|精灵|博主|网红|高管|新娘|新郎|水手|船长|大叔|大妈|大爷|美女|帅哥|胖子|怪物|妖怪|天使|恶魔|僵尸|雪人|木偶|玩偶|职员|白领|老头|老太太|"
    "裁缝|吸血鬼|贵妇|婴儿|幼儿|教授|将军|王后|店主|空乘|母亲|父亲|外公|叔叔|阿姨|狮子|猴子|兔子|青年|女巫|"
    "主厨|店长|队长|老外|胖子|瘦子|孕妇|妇人|贵族|君主|刺客|游侠|盗贼|乞丐|囚犯|逃犯|伯伯|舅舅|婶婶|孙子|孙女|儿子|女儿"
)
_NOT_BEINGS = entries(
    "国家|全家|人家|回家|双手|右手|左手|手工|人工|加工|施工|一手|随手|挥手|招手|握手|木马|斑马|风马|竹马|生长|"
    "成长|特长|细长|修长"
)
_COUNT = re.compile("^(?:[一二两三四五六七八九十几数多]+|[这那])?[位名个群只头匹条对队伙帮支家]")
_OWN = f"(?![在的是有把被见过着了一两千万辆台张座艘架])[{_HAN[1:-1]}]"
_NOUN = re.compile(
    f"(?:{_OWN}){{1,4}}?[{_PERSON_ENDINGS}{_ANIMAL_ENDINGS}]+队?|(?:{_OWN}){{0,2}}?(?:师傅|老板|乐队|合唱团|球队|团队|人群)"
)
_WHERE = re.compile(f"在((?:{_HAN}){{1,10}}?)[里中上下前后旁边间外内处角口面头]")
_WHILE = re.compile("^(?:正在|正|一起|一边|慢慢|轻轻|缓缓|默默|大声|用力)")
_LOOKS = re.compile(
    "的|和|与|及|或|身穿|身着|穿|戴|头戴|有|是|留|扎|系|梳|披|裹|正面|侧面|半身|特写|肖像|头像|全身|近景|中景|"
    "对着镜头|面对镜头|面向镜头|看着镜头|说|讲|谈|聊|没|不|未|无|别|背景|在"
)
_PLACE = re.compile(f"(?!晚上|早上|身上|头上|手上|脸上|以上|以下)(?:{_HAN}){{1,5}}[里上中下旁内外]")
_WORN = re.compile(f"(?:穿|戴|系|扎|留|披|裹|梳)着?(?:{_HAN}){{1,7}}?的")
_IN_SOME_WAY = re.compile(
    "(?:缓缓|慢慢|轻轻|默默|悄悄|静静|微微|频频|连连|大声|高声|低声|用力|使劲|不停|忽然|突然|开始|一边|边)地?"
    f"(?![说讲谈聊的])((?:{_HAN}){{2}})"
)
_GOING_ON = re.compile(f"(?![穿戴系扎留披裹梳]着)(?:{_HAN})[过着起下出开上向来去进回住]")
_TO_CAMERA = re.compile(f"(?:对着|面对|面向|朝|看着)镜头(?!说|讲|谈|聊)((?:{_HAN}){{2}})")
_HEADS = {
    "lighting": re.compile(f"(?:{_HAN}){{1,4}}的?光$"),
    "style": re.compile(f"(?:{_HAN}){{2,6}}(?:质感|色调|画风|风格|画质|影调)$"),
}
_OF_A_WORK = re.compile("作品|之作|杰作|手笔|级别?(?!长)|水准|水平|风格|画风|风范")
_STOPS = re.compile(r"[，。；、！？,.;!?\n 　]+")


def is_of_a_work(text: str, end: int) -> bool:
    """Tell if the words before `end` say whose work it is, or of what level: "master's work", "director-grade"."""
    return _OF_A_WORK.match(text, end) is not None


def beings_and_actions(text: str, spans: list[Span]) -> list[Found]:
    """Find beings that the lexicon lacks and what beings do: (place in the text, facet, words).

    Args:
        text: simplified Chinese.
        spans: lexicon entries found in it: first character, end, facet ("" for words that say nothing).
    """
    found: list[Found] = []
    start = 0
    subject = False
    for clause in _STOPS.split(text):
        start = text.index(clause, start)
        inside = [(a - start, b - start, facet) for a, b, facet in spans if start <= a < start + len(clause)]
        told = _told(clause, inside)
        being = _being(clause, inside)
        if being is not None:
            told += _predicate(clause, being, inside)
            subject = True
        elif subject:
            told += _going_on(clause, inside)
        found += [(start + at, facet, words) for at, facet, words in told]
        start += len(clause)
    return found


def _being(clause: str, inside: list[Span]) -> tuple[int, int, bool] | None:
    """Find the being that a clause is about: first character, end, whether the lexicon knows it."""
    known = next(((a, b) for a, b, facet in inside if facet == "person" and _is_being(clause[a:b])), None)
    noun = _subject(clause, inside)
    if noun is not None and (known is None or noun[0] < known[0] or (noun[0] == known[0] and noun[1] > known[1])):
        return (*noun, False)
    return None if known is None else (*known, True)


def _predicate(clause: str, being: tuple[int, int, bool], inside: list[Span]) -> list[Found]:
    """Tell what a clause says of its being: who it is, where it is, what it does."""
    start, end, known = being
    found: list[Found] = [] if known else [(start, "person", clause[start:end])]
    end += clause[end : end + 1] == "们"
    where = _WHERE.search(clause, end)
    if where:
        told = any(f == "setting" and where.start() <= a < where.end() for a, _, f in inside)
        if where[1] not in ("镜", "镜头") and not told:
            found.append((where.start(1), "setting", where[1]))
        if not _WHILE.sub("", clause[end : where.start()]):
            end = where.end()
    elif clause[end : end + 1] == "在":  # a place, and at once the action
        act = next((a for a, _, facet in sorted(inside) if facet == "action" and end + 3 <= a <= end + 6), None)
        if act is not None and not _overlaps((end + 1, act), inside):
            found.append((end + 1, "setting", clause[end + 1 : act]))
    predicate = _WHILE.sub("", clause[end:])
    at = len(clause) - len(predicate)
    acts = any(at <= a < at + 2 and facet == "action" for a, _, facet in inside)
    if len(predicate) >= 2 and not acts and not _LOOKS.match(predicate) and not _overlaps((at, at + 1), inside):
        found.append((at, "action", predicate[:2]))
    return found + (_verbs(clause, at + 2, len(clause), inside) or _in_some_way(clause, at, [*inside, *_spans(found)]))


def _in_some_way(clause: str, start: int, inside: list[Span]) -> list[Found]:
    """Find an action by the word before it that tells its manner: "slowly pours tea"."""
    ways = _IN_SOME_WAY.finditer(clause, start)
    return [(m.start(1), "action", m[1]) for m in ways if not _overlaps(m.span(1), inside)][:1]


def _spans(found: list[Found]) -> list[Span]:
    return [(at, at + len(words), facet) for at, facet, words in found]


def _going_on(clause: str, inside: list[Span]) -> list[Found]:
    """Find what the being of an earlier clause goes on to do, after its place and manner ("on deck, loudly")."""
    where = _WHERE.match(clause)
    at = where.end() if where else 0
    manner = _WHILE.match(clause[at:])
    at += manner.end() if manner else 0
    found = _verbs(clause, at, at + 2, inside)
    verb = _GOING_ON.match(clause, at)
    if not found and verb and not _overlaps(verb.span(), inside):
        found.append((at, "action", verb[0]))
    return found


def _verbs(clause: str, start: int, end: int, inside: list[Span]) -> list[Found]:
    """Find the first verb of the dictionary that begins in a part of a clause and is no word of the lexicon."""
    for i in range(start, end):
        word = verb_at(clause, i)
        if word and not _overlaps((i, i + len(word)), inside):
            return [(i, "action", word)]
    return []


def _told(clause: str, inside: list[Span]) -> list[Found]:
    """Find a clause that is a place ("工地上"), and nouns of light and style that a word before them describes."""
    found: list[Found] = []
    if not inside and _PLACE.fullmatch(clause):
        found.append((0, "setting", clause))
    found += [(m.start(), "person", m[0]) for m in _WORN.finditer(clause) if not _overlaps(m.span(), _about(inside))]
    found += [(m.start(1), "action", m[1]) for m in _TO_CAMERA.finditer(clause) if not _overlaps(m.span(1), inside)]
    for facet, heads in _HEADS.items():
        found += [(m.start(), facet, m[0]) for m in heads.finditer(clause) if (facet, m.end()) not in _ends(inside)]
    return found


def _about(inside: list[Span]) -> list[Span]:
    return [span for span in inside if span[2] == "person"]


def _ends(inside: list[Span]) -> set[tuple[str, int]]:
    return {(facet, b) for _, b, facet in inside if facet != ""}


def _subject(clause: str, inside: list[Span]) -> tuple[int, int] | None:
    """Find a being at the beginning of a clause, after its measure word, or after 的."""
    count = _COUNT.match(clause)
    for first in (count.end() if count else 0, *(m.end() for m in re.finditer("的", clause))):
        noun = _NOUN.match(clause, first)
        others = [span for span in inside if span[0] != first]
        if (
            noun
            and noun[0] not in _NOT_BEINGS
            and not is_of_a_work(clause, noun.end())
            and not _overlaps(noun.span(), others)
        ):
            return noun.span()
    if count is None or clause[count.end() - 1] not in _ONLY_BEINGS or "的" in clause:
        return None
    first = count.end()
    for end in range(first + 1, min(len(clause), first + 6)):
        if clause[end] in "在正" or (end > first + 1 and verb_at(clause, end)):
            return None if _overlaps((first, end), inside) else (first, end)
    return None


def _is_being(word: str) -> bool:
    return word in _OTHER_BEINGS or word.endswith(tuple(_OTHER_BEINGS)) or word[-1] in _PERSON_ENDINGS + _ANIMAL_ENDINGS


def _overlaps(span: tuple[int, int], spans: list[Span]) -> bool:
    return any(a < span[1] and b > span[0] for a, b, _ in spans)
