"""Odd inputs of every kind, each made by a generator and with its right answer; read in `make nightly`."""
