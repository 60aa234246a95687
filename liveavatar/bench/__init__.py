"""Benchmarks behind `liveavatar bench`: `cpu`, `gpu`, `quality` and `prompts`.

Owns how a figure is measured and printed. Nothing in the product imports it but the command.
"""
