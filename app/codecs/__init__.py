"""Bytes and JSON to pictures and prompts, predictions to masks. Knows nothing of HTTP, queues or storage."""
