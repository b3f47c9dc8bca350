"""Metrics, traces, logs and the stages of a request.

Does not know about endpoints, or about clients beyond their names.
"""
