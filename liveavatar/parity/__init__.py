"""Proof that the engine equals its specification: `liveavatar parity DIR` and what it checks.

A *fixture set* is a directory of safetensors made by the reference with tiny seeded weights; a *part* is one
thing compared (a scenario of the transformer, a pass of the autoencoder, ...). Sizes and seeds are read from
the set, so any set of the same layout works. Parts whose files are absent are reported as skipped.

Owns the comparisons and their tolerances. Does not know the fast path, which the tests hold to the plain one.
"""

from liveavatar.parity.checks import GROUPS, run_parity
from liveavatar.parity.report import Part, exit_code, to_json, to_lines

__all__ = ["GROUPS", "Part", "exit_code", "run_parity", "to_json", "to_lines"]
