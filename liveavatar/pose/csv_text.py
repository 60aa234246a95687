"""Text of csv tables as spreadsheets write them; the tables of jobs (`flows/job_table.py`) are read with it, too.

Owns encoding and delimiter. Does not know what a column means.
"""

import re
from pathlib import Path

from liveavatar.files import read_text

DELIMITERS = (",", ";", "\t")  # the first one in the header counts; spreadsheets write `;` in half of Europe


def read_csv_text(path: Path) -> tuple[str, str]:
    """Read a csv: its text without the line `sep=;` of spreadsheets, and what divides its cells.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is in another encoding than UTF-8.
    """
    text = read_text(path)
    first, _, rest = text.partition("\n")
    if re.fullmatch(r'"?sep=."?', first, re.IGNORECASE):
        return rest, first.strip('"')[-1]
    return text, next((d for d in DELIMITERS if d in first), DELIMITERS[0])
