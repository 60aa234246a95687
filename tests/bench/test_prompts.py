"""The labelled prompts: both splits are large enough, and nine of ten fresh ones are judged right."""

from liveavatar.bench.prompts import FRESH, LEAST, bench_prompts, lines, read_labelled


def test_the_fresh_split_is_judged_right() -> None:
    build, fresh = read_labelled(), read_labelled(FRESH)
    assert len(build) >= 240
    assert len(fresh) >= 60
    assert len({row.prompt for row in (*build, *fresh)}) == len(build) + len(fresh)
    result = bench_prompts({"build": build, "fresh": fresh})
    for split in ("build", "fresh"):
        assert result["splits"][split]["share"] >= LEAST, lines(result)
        assert result["splits"][split]["facets"] >= LEAST


def test_fillers_are_written_out() -> None:
    row = next(row for row in read_labelled() if row.prompt.startswith("<600 words of furniture>"))
    assert 600 < len(row.text.split()) < 630


def test_every_kind_has_a_line() -> None:
    rows = read_labelled()
    written = "\n".join(lines(bench_prompts({"build": rows})))
    assert all(f"| {kind} |" in written for kind in {row.kind for row in rows})
