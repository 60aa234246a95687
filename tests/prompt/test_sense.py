"""Contradictions cancel words, lists of words are no descriptions, negated words are not said."""

import pytest

from liveavatar.prompt.check import check_prompt


@pytest.mark.parametrize(
    ("text", "facet"),
    [
        pytest.param("A bald man nods, static shot, the camera orbits around him", "camera", id="camera"),
        pytest.param("光头男人点头，固定镜头，镜头环绕", "camera", id="camera in Chinese"),
        pytest.param("A bald man nods, realistic anime", "style", id="style"),
        pytest.param("A bald man nods, no lighting", "lighting", id="negated"),
        pytest.param("光头男人点头，没有灯光", "lighting", id="negated in Chinese"),
        pytest.param("A man who isn't smiling", "action", id="contracted"),
        pytest.param("来自山西的人", "setting", id="inside another word"),
    ],
)
def test_words_that_say_nothing(text: str, facet: str) -> None:
    assert facet in check_prompt(text).missing


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("smile, nod, hair, cinematic, sunlight, close-up, beach, happy, suit", True),
        ("头发 台灯 海滩 微笑 镜头 动漫 办公室 帽子 大笑", True),
        ("sand clock violin green tall soft run bright lens", True),
        ("young woman, red hair, smiling, soft light, photorealistic, close-up portrait", False),
    ],
)
def test_lists_of_words(text: str, listed: bool) -> None:
    report = check_prompt(text)
    assert any("list of words" in problem for problem in report.problems) == listed
    assert (report.grade == "poor") == listed


def test_a_negation_ends_at_its_clause() -> None:
    report = check_prompt("A woman without a hat nods, soft light, and cannot help smiling")
    assert report.facets["action"] == ["nod", "smile"]
    assert report.facets["lighting"] == ["soft light"]
    assert "hat" not in report.facets["person"]


def test_a_contradiction_is_named() -> None:
    (problem,) = check_prompt("A bald man nods, close-up wide shot").problems
    assert "'close up' and 'wide shot'" in problem
