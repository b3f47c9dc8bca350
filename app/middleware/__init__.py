"""What surrounds every request: id, log line, keys, rates, CORS, connections.

Does not know about endpoints and models.
"""
