"""Source files without a test file of their name, each with the file that covers it. The list only shrinks."""

COVERED_BY = {
    "flows/cli/ask.py": "tests/flows/cli/test_cli.py",
    "flows/cli/plan.py": "tests/planning/test_plan.py",
    "flows/cli/run.py": "tests/flows/test_flows.py",
    "flows/render.py": "tests/flows/cli/test_cli.py",
    "flows/render_pipe.py": "tests/flows/test_flows.py",
    "liveavatar/audio/encoders/whisper_network.py": "tests/audio/encoders/test_whisper.py",
    "liveavatar/prompt/words_en.py": "tests/prompt/test_check.py",
    "tasks/cluster/actor.py": "tests/tasks/cluster/test_group.py",
    "tasks/cluster/calls.py": "tests/tasks/cluster/test_group.py",
    "tasks/cluster/decode_layers.py": "tests/tasks/cluster/test_group.py",
    "tasks/cluster/host.py": "tests/tasks/cluster/test_group.py",
    "tasks/enhance.py": "tests/tasks/test_quality.py",
    "tasks/features.py": "tests/tasks/store/test_keys.py",
    "tasks/ingest.py": "tests/tasks/test_quality.py",
    "tasks/render_pipe.py": "tests/flows/test_flows.py",
}
