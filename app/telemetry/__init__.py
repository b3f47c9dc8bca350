"""Metrics, traces, logs and the stages of a request. Knows no endpoint, and no client beyond its name."""
