"""Tables: batches of jobs as spreadsheets save them, and head angles."""

from typing import Any

import numpy as np

from tests.odd_inputs.case import Case, Check, written

CSV = 'audio,image,prompt,seed\na.wav,a.png,"A woman, calm",3\nb.wav,b.png,A man,4\n'
PROMPTS = ["A woman, calm", "A man"]
POSES = "frame,yaw,pitch,roll\n0,10,0,0\n25,20,5,-5\n"


def jobs(prompts: list[str]) -> Check:
    """Assert the prompts of the rows, and that a seed is what was written."""

    def check(rows: list[dict[str, Any]]) -> None:
        assert [row["prompt"] for row in rows] == prompts
        assert [str(row["seed"]) for row in rows] == ["3", "4"][: len(prompts)]

    return check


def angles(*yaws: float) -> Check:
    """Assert yaw in degrees of the first and the last frame."""

    def check(track: np.ndarray) -> None:
        assert np.allclose(np.degrees(track[[0, -1], 0]), yaws, atol=1e-3)

    return check


BATCHES = [
    Case(name="commas", make=written("a.csv", CSV.encode()), check=jobs(PROMPTS)),
    Case(name="byte-order mark", make=written("a.csv", CSV.encode("utf-8-sig")), check=jobs(PROMPTS)),
    Case(name="semicolons", check=jobs(PROMPTS),
         make=written("a.csv", CSV.replace('"', "").replace("A woman, calm", "A woman. calm").replace(",", ";")
                      .replace(".  calm", ", calm").replace(". calm", ", calm").encode())),
    Case(name="tabs", check=jobs(["A man"]), make=written("a.csv", b"image\tprompt\tseed\na.png\tA man\t3\n")),
    Case(name="lines of Windows", make=written("a.csv", CSV.replace("\n", "\r\n").encode()), check=jobs(PROMPTS)),
    Case(name="empty lines", make=written("a.csv", CSV.replace("\n", "\n\n").encode()), check=jobs(PROMPTS)),
    Case(name="a prompt of two lines", check=jobs(["A\nman"]),
         make=written("a.csv", b'image,prompt,seed\na.png,"A\nman",3\n')),
    Case(name="jsonl", make=written("a.jsonl", b'{"prompt": "A man", "seed": 3}\n\n'), check=jobs(["A man"])),
    Case(name="jsonl with a mark", check=jobs(["A man"]),
         make=written("a.jsonl", b'\xef\xbb\xbf{"prompt": "A man", "seed": 3}\n')),
    Case(name="unquoted comma", make=written("a.csv", CSV.replace('"', "").encode()), words="row 1 has 5 cells"),
    Case(name="Latin-1", make=written("a.csv", b"prompt,seed\nJos\xe9,3\n"), words="not UTF-8"),
    Case(name="a column twice", make=written("a.csv", b"prompt,prompt\na,b\n"), words="twice"),
    Case(name="an open quote", make=written("a.csv", b'prompt\n"a\n'), words="cannot be read as csv"),
    Case(name="header alone", make=written("a.csv", b"audio,image,prompt\n"), words="holds no job"),
    Case(name="a workbook named csv", make=written("a.csv", b"PK\3\4\x14\0\x06\0\x08\0\0\0!\0\xee"), words="not UTF-8"),
    Case(name="nested without end", make=written("a.jsonl", b"[" * 50_000), words="nested too deeply"),
    Case(name="a list in jsonl", make=written("a.jsonl", b"[1, 2]\n"), words="no JSON object"),
]  # fmt: skip
TRACKS = [
    Case(name="frames", make=written("a.csv", POSES.encode()), check=angles(10, 20)),
    Case(name="seconds", make=written("a.csv", POSES.replace("frame", "time").replace("25", "2").encode()),
         check=angles(10, 20)),
    Case(name="byte-order mark", make=written("a.csv", POSES.encode("utf-8-sig")), check=angles(10, 20)),
    Case(name="spaces and capitals", make=written("a.csv", POSES.replace(",", ", ").title().encode()),
         check=angles(10, 20)),
    Case(name="no roll", make=written("a.csv", b"frame,yaw,pitch\n0,1,2\n"), words="no column roll"),
    Case(name="a word", make=written("a.csv", POSES.replace("20", "left").encode()), words="line 3"),
    Case(name="an infinite angle", make=written("a.csv", POSES.replace("20", "inf").encode()), words="nan or infinity"),
    Case(name="behind the back", make=written("a.csv", POSES.replace("20", "170").encode()), words="exceeds 45"),
    Case(name="time runs back", make=written("a.csv", (POSES + "3,0,0,0\n").encode()), words="rise from row to row"),
    Case(name="not a table", make=written("a.csv", bytes(range(256))), words="no csv|no rows|no column"),
]  # fmt: skip
