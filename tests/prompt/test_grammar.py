"""English words by their place in the sentence; none of these nouns and verbs is in the lexicon."""

import pytest

from liveavatar.prompt import english


def _said(text: str, facet: str) -> list[str]:
    return [hit.entry for hit in english.find(text.lower()) if (facet, False) in hit.places]


@pytest.mark.parametrize(
    ("text", "person", "action"),
    [
        pytest.param("A welder lowers her visor.", ["welder"], ["lower"], id="trade and a known verb"),
        pytest.param("The glazier scores a pane.", ["glazier"], ["scores"], id="verb after its subject"),
        pytest.param("Two lumberjacks saw a log.", ["lumberjacks"], ["saw"], id="plural"),
        pytest.param("Nuns ring the bells.", ["nun"], ["ring"], id="verb that the lexicon knows as a noun"),
        pytest.param("A potter in a smock kneads and hums.", ["potter", "smock"], ["knead", "hum"], id="joined"),
        pytest.param("A projector flickers.", [], [], id="a thing does not act"),
        pytest.param("The nurse station.", ["nurse"], [], id="noun before a noun"),
        pytest.param("Light falls on the welder.", [], [], id="not the subject"),
        pytest.param("A heron spears an eel.", ["heron", "eel"], ["spears"], id="animal"),
        pytest.param("A choir improvises.", ["choir"], ["improvises"], id="group"),
    ],
)
def test_beings_and_actions(text: str, person: list[str], action: list[str]) -> None:
    assert _said(text, "person") == person
    assert _said(text, "action") == action


@pytest.mark.parametrize(
    ("text", "facet", "entry"),
    [
        ("An actor in a ruff bows.", "person", "ruff"),
        ("A welder in a jumpsuit.", "person", "jumpsuit"),
        ("A cook nods in the scullery.", "setting", "scullery"),
        ("Dusty light.", "lighting", "dusty light"),
        ("A group shot.", "camera", "group shot"),
        ("Broadcast look.", "style", "broadcast look"),
    ],
)
def test_other_facets(text: str, facet: str, entry: str) -> None:
    assert entry in _said(text, facet)


@pytest.mark.parametrize("text", ["Good light.", "The light.", "She looks at the light."])
def test_a_plain_noun_stays_generic(text: str) -> None:
    assert not _said(text, "lighting")
