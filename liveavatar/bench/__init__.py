"""Benchmarks behind `liveavatar bench`: `cpu`, `gpu` and `quality`.

Owns how a figure is measured and printed. Nothing in the product imports it but the command.
"""
