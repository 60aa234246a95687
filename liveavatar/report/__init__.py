"""The HTML report of a run: one file that opens offline.

Owns the page and its plots. Computes no measure and no verdict.
"""
