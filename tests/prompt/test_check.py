"""Prompts that say nothing are poor, prompts that say everything are good, in English and in Chinese."""

import json
from dataclasses import asdict

import pytest

from liveavatar.errors import InputError
from liveavatar.prompt import words_en, words_zh
from liveavatar.prompt.check import MAX_WORDS, check_prompt, require_dense
from liveavatar.prompt.lexicon import FACETS

FULL = (
    "A silver-haired woman in her sixties wearing a white blazer smiles and gestures with open palms as she explains, "
    "soft window light, warm highlights, photorealistic and cinematic, medium close-up with shallow depth of field, "
    "in a bright living room, calm and confident."
)
FULL_ZH = "一位银发女士身穿白色西装，在明亮的客厅里微笑着讲解，柔和的窗光，写实的电影感，中近景，背景虚化，优雅自信。"


@pytest.mark.parametrize(
    ("text", "grade", "language"),
    [
        pytest.param("A person talking", "poor", "en", id="the classic"),
        pytest.param("a PERSON talking.", "poor", "en", id="the classic shouted"),
        pytest.param("A man is speaking to the camera", "poor", "en", id="generic words only"),
        pytest.param("person person person talking talking", "poor", "en", id="repetition is no information"),
        pytest.param("cinematic soft lighting, 4k, photorealistic, golden hour", "poor", "en", id="nobody in it"),
        pytest.param("xyzzy plugh quux", "poor", "en", id="no word known"),
        pytest.param("Мужчина говорит и улыбается", "unknown", "other", id="another language"),
        pytest.param("A woman with red hair smiles and nods, soft light, cinematic", "fair", "en", id="half of it"),
        pytest.param(FULL, "good", "en", id="everything"),
        pytest.param("一个人在说话", "poor", "zh", id="the classic in Chinese"),
        pytest.param("一位短发的女教师微笑着讲课，自然光，写实", "fair", "zh", id="half of it in Chinese"),
        pytest.param(FULL_ZH, "good", "zh", id="everything in Chinese"),
        pytest.param("一位戴眼镜的老师 explains, gestures, 柔光, cinematic, 客厅, 特写", "good", "zh", id="both"),
    ],
)
def test_grades(text: str, grade: str, language: str) -> None:
    report = check_prompt(text)
    assert (report.grade, report.language) == (grade, language), report
    assert 0.0 <= report.score <= 1.0
    assert json.loads(json.dumps(asdict(report)))["grade"] == grade


@pytest.mark.parametrize(
    ("text", "facet", "found"),
    [
        pytest.param("women smiling", "action", ["smile"], id="-ing with e"),
        pytest.param("he nodded", "action", ["nod"], id="doubled consonant"),
        pytest.param("she waves", "action", ["wave"], id="third person"),
        pytest.param("ladies", "person", ["lady"], id="-ies"),
        pytest.param("three children", "person", ["child"], id="irregular plural"),
        pytest.param("he talks elegantly", "mood", ["elegant"], id="adverb"),
        pytest.param("a close-up", "camera", ["close up"], id="hyphen"),
        pytest.param("with shallow depth of field", "camera", ["shallow depth of field"], id="longest phrase"),
        pytest.param("with shallow depth of field", "setting", [], id="a phrase's words count once"),
        pytest.param("golden hour sun", "lighting", ["golden hour", "sun"], id="phrase"),
        pytest.param("the man’s beard", "person", ["beard", "man"], id="curly apostrophe, generic last"),
        pytest.param("背景虚化", "camera", ["背景虚化"], id="longest Chinese entry"),
        pytest.param("背景虚化", "setting", [], id="its characters count once"),
        pytest.param("身穿西装", "person", ["身穿", "西装"], id="neighbours in Chinese"),
    ],
)
def test_words_found(text: str, facet: str, found: list[str]) -> None:
    assert check_prompt(text).facets[facet] == found


def test_missing_and_suggestions_are_concrete() -> None:
    report = check_prompt("A bearded blacksmith laughs and swings a hammer")
    assert report.missing == ["lighting", "style", "camera", "setting", "mood"]
    assert len(report.suggestions) == 5
    assert all(", for instance: " in s for s in report.suggestions)
    assert all("例如" in s for s in check_prompt("一个人在说话").suggestions)
    assert check_prompt(FULL).missing == []


@pytest.mark.parametrize("hints", [pytest.param(words_en.HINTS, id="en"), pytest.param(words_zh.HINTS, id="zh")])
def test_following_every_suggestion_makes_a_good_prompt(hints: dict[str, tuple[str, str]]) -> None:
    assert check_prompt(", ".join(example for _, example in hints.values())).grade == "good"


def test_adding_a_facet_never_lowers_the_score() -> None:
    text, last = "a person talking", 0.0
    for what in (
        "with a grey beard and glasses",
        "nodding",
        "soft light",
        "cinematic",
        "close-up",
        "in a cafe",
        "calm",
    ):
        text += ", " + what
        score = check_prompt(text).score
        assert score > last
        last = score


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "empty", id="empty"),
        pytest.param(" \n\t", "empty", id="white space"),
        pytest.param("!!! ... 123", "empty", id="no letters"),
        pytest.param("word " * 5000, "5000 words", id="5000 words"),
        pytest.param("好" * 5000, "5000 words", id="5000 characters"),
        pytest.param("слово " * 5000, "5000 words", id="5000 words of another language"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    for check in (check_prompt, require_dense):
        with pytest.raises(InputError, match=message) as caught:
            check(text)
        assert "\n" not in str(caught.value)


def test_longest_prompt_allowed() -> None:
    assert check_prompt("smile " * MAX_WORDS).num_words == MAX_WORDS


def test_strict_names_what_is_missing() -> None:
    with pytest.raises(InputError, match="person, action, lighting, style"):
        require_dense("A person talking")
    assert require_dense(FULL).grade == "good"


@pytest.mark.parametrize("words", [pytest.param(words_en, id="en"), pytest.param(words_zh, id="zh")])
def test_lexicons_are_clean(words) -> None:
    for lexicon in (words.SPECIFIC, words.GENERIC):
        assert tuple(lexicon) == FACETS
        for facet, entries in lexicon.items():
            assert entries, facet
            assert all(e == e.lower().strip() for e in entries)
            if words is words_en:
                assert all(len(e.split()) <= 4 for e in entries), facet


def test_the_score_is_the_weighted_share_of_the_facets() -> None:
    assert check_prompt("A person talking").score == pytest.approx(0.25 * 0.5 / 3 + 0.20 * 0.5 / 2, abs=1e-3)
    texts = ("A person talking", "A woman with red hair smiles and nods, soft light, cinematic", FULL)
    scores = [check_prompt(text).score for text in texts]
    assert scores == sorted(scores)
    assert scores[0] < 0.2 < 0.5 < scores[1] < scores[2] <= 1
