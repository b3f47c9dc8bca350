"""The version of this package. Imports nothing, so packaging can read it without importing the rest."""

__version__ = "0.1.0"
