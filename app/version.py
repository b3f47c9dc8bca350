"""The version of this service, the same as in pyproject.toml. Does not know about the model's version."""

VERSION = "0.1.0"
