"""Identity measures of given embeddings."""

import numpy as np
import pytest

from liveavatar.quality import identity
from liveavatar.quality.absence import Absence, MeasureUnavailable


def test_similarity_is_per_second_and_drift_per_minute() -> None:
    reference = np.zeros(128)
    reference[0] = 1
    cosines = np.linspace(1.0, 0.7, 30)
    vectors = np.zeros((30, 128))
    vectors[:, 0], vectors[:, 1] = cosines, np.sqrt(1 - cosines**2)
    similarity = identity.similarity_per_second(vectors, np.arange(30.0), reference)
    assert similarity == pytest.approx(cosines)
    lowest = identity.identity_min(vectors, np.arange(30.0), reference)
    assert (lowest.value, lowest.seconds) == (pytest.approx(0.7), 29)
    assert identity.identity_drift(vectors, np.arange(30.0), reference) == pytest.approx(-0.3 / 29 * 60, rel=1e-6)
    with pytest.raises(MeasureUnavailable, match="less than 10 s") as error:
        identity.identity_drift(vectors[:9], np.arange(9.0), reference)
    assert error.value.kind is Absence.NOT_APPLICABLE
    with pytest.raises(MeasureUnavailable, match="no face"):
        identity.similarity_per_second(vectors[:0], np.zeros(0), reference)
