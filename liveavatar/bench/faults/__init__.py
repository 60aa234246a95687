"""Fault bench: planted faults in good videos, and the grade that the verdict gives each."""
