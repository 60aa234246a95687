"""A missing measure keeps its reason and the kind of it."""

import pickle

import pytest

from liveavatar.quality.absence import Absence, MeasureUnavailable


def test_a_reason_alone_says_that_the_means_are_missing() -> None:
    error = MeasureUnavailable("no model")
    assert (str(error), error.kind) == ("no model", Absence.NOT_POSSIBLE)


@pytest.mark.parametrize("kind", Absence)
def test_the_kind_survives_the_way_between_processes(kind: Absence) -> None:
    error = pickle.loads(pickle.dumps(MeasureUnavailable("no face", kind)))
    assert (str(error), error.kind) == ("no face", kind)
