"""Mutations of valid files against every reader of a user's file: `python -m tests.fuzz.run --cases 10000 --seed 1`."""
