"""A work folder belongs to one process at a time."""

from pathlib import Path
from threading import Thread

import pytest

from liveavatar.errors import CapacityError
from liveavatar.render import alone as module
from liveavatar.render.alone import alone


def test_a_second_render_of_a_job_is_refused_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALONE_SECONDS", 0.2)
    with (
        alone(tmp_path / "work"),
        pytest.raises(CapacityError, match="wait for it, or end it with"),
        alone(tmp_path / "work"),
    ):
        pass
    with alone(tmp_path / "work"), alone(tmp_path / "another"):
        pass


def test_it_begins_when_the_first_has_ended(tmp_path: Path) -> None:
    began: list[str] = []

    def second() -> None:
        with alone(tmp_path / "work"):
            began.append("second")

    thread = Thread(target=second)
    with alone(tmp_path / "work"):
        thread.start()
        thread.join(0.3)
        began.append("first has ended")
    thread.join(60)
    assert began == ["first has ended", "second"]
