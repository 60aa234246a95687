"""Synthetic speech with exact phoneme times: voices, texts, tracks, mouth shapes.

Knows neither heads nor pictures.
"""
