"""A rewritten prompt keeps the user's words, adds what they leave out, and invents nothing about the person."""

import pytest

from liveavatar.bench.prompts import read_labelled
from liveavatar.errors import InputError
from liveavatar.prompt.check import check_prompt
from liveavatar.prompt.rewrite import automatic, rewrite

GRADES = ("poor", "fair", "good")
LABELLED = [row for row in read_labelled() if row.grade in GRADES]


@pytest.mark.parametrize(
    "text", ["a man in a grey suit", "a cat", "一位穿红色毛衣的女士", "a woman laughs in a kitchen."]
)
def test_words_stay_and_facets_are_added(text: str) -> None:
    before, written = check_prompt(text), rewrite(text)
    assert written is not None
    assert written.startswith(text)
    after = check_prompt(written)
    assert set(after.missing) <= {"person"}
    assert after.problems == []
    assert GRADES.index(after.grade) >= GRADES.index(before.grade)
    assert after.facets["person"][: len(before.facets["person"])] == before.facets["person"]
    assert rewrite(written) is None


def test_a_short_prompt_becomes_a_good_one() -> None:
    written = rewrite("a man in a grey suit")
    assert written is not None
    assert check_prompt(written).grade == "good"
    written = rewrite("一位穿红色毛衣的女士")
    assert written is not None
    assert check_prompt(written).grade == "good"


def test_nothing_is_invented_about_the_person() -> None:
    for row in LABELLED:
        written = rewrite(row.text)
        if written is not None:
            before, after = check_prompt(row.text), check_prompt(written)
            assert after.facets["person"] == before.facets["person"], row.prompt
            assert GRADES.index(after.grade) >= GRADES.index(before.grade), row.prompt
            for facet, words in before.facets.items():
                assert set(words) <= set(after.facets[facet]), (row.prompt, facet)


@pytest.mark.parametrize("text", ["a man in a suit speaks, no lighting", "一位男士在说话，没有灯光"])
def test_what_was_excluded_stays_out(text: str) -> None:
    written = rewrite(text)
    assert written is not None
    assert "light" not in written.removeprefix(text)
    assert "光" not in written.removeprefix(text)


@pytest.mark.parametrize(
    "text", ["un hombre con traje habla a la cámara", "static shot, the camera orbits around a man in a suit"]
)
def test_what_cannot_be_rewritten_is_not(text: str) -> None:
    assert rewrite(text) is None
    with pytest.raises(ValueError, match="cannot be rewritten"):
        automatic(f"auto: {text}")


@pytest.mark.parametrize(
    ("prompt", "begins"),
    [
        pytest.param("auto", "A person speaks to the camera. Head-and-shoulders", id="nothing given"),
        pytest.param(" Auto: ", "A person speaks to the camera. Head-and-shoulders", id="no words behind the colon"),
        pytest.param("auto: a man in a suit", "a man in a suit. They look into", id="own words"),
        pytest.param("automatic doors and a man", "automatic doors and a man", id="another word"),
        pytest.param("a man: auto", "a man: auto", id="not at the start"),
    ],
)
def test_auto(prompt: str, begins: str) -> None:
    assert automatic(prompt).startswith(begins)


def test_a_good_prompt_is_taken_as_it_is() -> None:
    good = next(row.text for row in LABELLED if rewrite(row.text) is None and not check_prompt(row.text).problems)
    assert automatic(f"auto: {good}") == good


def test_no_words_are_refused() -> None:
    with pytest.raises(InputError):
        rewrite("...")
