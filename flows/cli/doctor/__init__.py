"""`liveavatar doctor`: what is checked of the installation, the machine and the surroundings.

Checks look and change nothing but caches (Whisper weights are converted when they were not yet). Services are not
started; Prefect and Ray are looked up by name and version only. What `--fix` repairs is in `flows.cli.repair`.
"""
