"""Live Avatar: audio + portrait + prompt in, a lip-synced avatar video and a quality verdict out.

The engine package. It knows neither Prefect nor Ray (see `[tool.importlinter]`); `tasks/` and `flows/`
wrap it.
"""

__version__ = "0.2.0"
