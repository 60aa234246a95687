"""Source files without a test file of their name, each with the file that covers it. The list only shrinks."""

COVERED_BY = {
    "flows/cli/ask.py": "tests/flows/cli/test_cli.py",
    "flows/cli/plan.py": "tests/planning/test_plan.py",
    "flows/cli/run.py": "tests/flows/test_flows.py",
    "flows/render.py": "tests/flows/cli/test_cli.py",
    "flows/render_pipe.py": "tests/flows/test_flows.py",
    "tasks/render_pipe.py": "tests/flows/test_flows.py",
}
