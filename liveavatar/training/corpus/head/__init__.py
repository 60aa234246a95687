"""The procedural head: meshes, hair, people drawn from a seed, and their motion.

Uses mouth shapes of `speech`; knows neither light nor camera pictures (`render`) nor clips.
"""
