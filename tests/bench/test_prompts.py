"""The labelled prompts: both halves are large enough, and nine of ten held-out ones are judged right."""

from liveavatar.bench.prompts import LEAST, bench_prompts, lines, read_labelled


def test_the_held_out_half_is_judged_right() -> None:
    rows = read_labelled()
    assert len(rows) >= 240
    assert len({row.prompt for row in rows}) == len(rows)
    result = bench_prompts(rows)
    half = result["halves"]["held out"]
    assert half["prompts"] >= 100
    assert half["share"] >= LEAST, lines(result)
    assert half["facets"] >= LEAST


def test_fillers_are_written_out() -> None:
    row = next(row for row in read_labelled() if row.prompt.startswith("<600 words of furniture>"))
    assert 600 < len(row.text.split()) < 630


def test_every_kind_has_a_line() -> None:
    rows = read_labelled()
    written = "\n".join(lines(bench_prompts(rows)))
    assert all(f"| {kind} |" in written for kind in {row.kind for row in rows})
