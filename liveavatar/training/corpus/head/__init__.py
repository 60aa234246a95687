"""The procedural head: meshes, hair, people drawn from a seed, and how they move."""
