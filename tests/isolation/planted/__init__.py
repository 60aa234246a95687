"""Folder for `PYTHONPATH`: processes started with it plant faults into workers (`sitecustomize.py`)."""
