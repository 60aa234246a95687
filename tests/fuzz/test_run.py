"""A small fuzz run; `make nightly` reads 10,000 files."""

import random
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutate
from tests.fuzz.readers import READERS
from tests.fuzz.run import Fuzz, summary
from tests.fuzz.seeds import MAKERS


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    return Fuzz(tmp_path_factory.mktemp("fuzz") / "run")


@pytest.mark.slow
def test_every_file_is_read_or_refused_in_one_line(fuzz: Fuzz) -> None:
    results = list(fuzz.run(seed=21, first=0, count=200))
    faults = [(case.number, case.kind, outcome.detail) for case, outcome in results if outcome.is_fault]
    assert not faults
    counts = summary(results)
    assert counts.keys() == MAKERS.keys() == READERS.keys()
    assert sum(count.get("read", 0) for count in counts.values()) > 40, "most mutations must not hide the later ones"
    assert sum(count.get("refused", 0) for count in counts.values()) > 40


def test_the_seeds_themselves_are_read(fuzz: Fuzz) -> None:
    for kind, paths in fuzz.seeds.items():
        for path in paths:
            if kind not in ("playlist", "pipe"):  # these are refused: lists of other files, and a WAV header
                READERS[kind](path)


def test_a_case_is_a_function_of_seed_and_number(fuzz: Fuzz, tmp_path: Path) -> None:
    data = fuzz.seeds["picture"][0].read_bytes()
    made = [[mutate(data, data, random.Random(f"{seed}")) for seed in range(30)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 25
