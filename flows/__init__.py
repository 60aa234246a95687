"""Prefect flows, one deployment a file, and the `liveavatar` command. Knows no torch and no Ray."""
