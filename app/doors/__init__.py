"""Endpoints in the words of other tools, one module a tool, on the same service, cache and queues as our own.

Knows the routes' ways to read bodies. Does not know how masks are made.
"""
