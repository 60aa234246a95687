"""Chinese words by their place in the clause; none of these nouns and verbs is in the lexicon."""

import pytest

from liveavatar.prompt import chinese


def _said(text: str, facet: str) -> list[str]:
    return [hit.entry for hit in chinese.find(text) if (facet, False) in hit.places]


@pytest.mark.parametrize(
    ("text", "person", "action"),
    [
        pytest.param("石匠凿着石像。", ["石匠"], ["凿着"], id="trade by its ending"),
        pytest.param("疲惫的搬运工扛起麻袋。", ["搬运工"], ["扛起"], id="after 的"),
        pytest.param("一名花脸武生踢腿。", ["花脸武生"], ["踢腿"], id="after a measure word of people"),
        pytest.param("一位留长须的占卜师。", ["长须", "占卜师"], [], id="does nothing"),
        pytest.param("驯兽师站起来，穿过人群。", ["驯兽师"], ["站起", "穿过"], id="goes on in the next clause"),
        pytest.param("国家发展。", [], [], id="no person"),
        pytest.param("船长站起，在甲板上大声喊话。", ["船长"], ["站起", "喊话"], id="place and manner before the verb"),
        pytest.param("茶艺师身穿长衫缓缓倒茶。", ["茶艺师", "身穿"], ["倒茶"], id="what follows a word of manner"),
        pytest.param("大师作品，导演级画面。", [], [], id="whose work it is"),
        pytest.param("一辆马车驶过。", [], [], id="a thing"),
    ],
)
def test_beings_and_actions(text: str, person: list[str], action: list[str]) -> None:
    assert sorted(_said(text, "person")) == sorted(person)
    assert _said(text, "action") == action


@pytest.mark.parametrize(
    ("text", "facet", "entry"),
    [
        ("工地上。", "setting", "工地上"),
        ("石匠在河滩上凿石。", "setting", "河滩"),
        ("消防员在火场挥手。", "setting", "火场"),
        ("煤油灯的光", "lighting", "煤油灯的光"),
    ],
)
def test_other_facets(text: str, facet: str, entry: str) -> None:
    assert entry in _said(text, facet)


def test_what_follows_the_camera_is_an_action() -> None:
    assert _said("少女对着镜头比心。", "action") == ["比心"]
    assert _said("少女对着镜头说话。", "action") == []
