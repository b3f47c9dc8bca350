"""Converts bytes and JSON to pictures and prompts, and predictions to masks.

Does not know about HTTP, queues or storage.
"""
