"""Prompt density check in English and Chinese: facets named, facets missing, suggested words.

Owns word lists and scoring. Does not know the text encoders.
"""
