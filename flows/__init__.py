"""Prefect flows, one deployment a file, and the `liveavatar` command. Knows no torch and no Ray."""

from flows.search_path import leave_out_relative

leave_out_relative()
