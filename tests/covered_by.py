"""Source files without a test file of their name, each with the file that covers it. The list only shrinks."""

COVERED_BY = {
    "flows/render_pipe.py": "tests/flows/test_flows.py",
    "tasks/render_pipe.py": "tests/flows/test_flows.py",
}
