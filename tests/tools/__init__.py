"""Checks of the doors with the real clients. Each script runs in a virtual environment of its tool."""
