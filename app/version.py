"""The version of this service, as pyproject.toml has it. Knows nothing of the model's."""

VERSION = "0.1.0"
