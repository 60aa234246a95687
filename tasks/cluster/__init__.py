"""Resident Ray actors and groups of them: the only package that imports ray.

Not called `ray`, which would hide the library from a script that is started inside `tasks/`.
"""
