"""Measures and verdict of a finished video: lip sync, identity, texture, motion, sound.

Owns every measure, its limits and where each limit comes from. Does not know how a video was made, or who asks.
"""
