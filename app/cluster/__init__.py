"""Many devices: the service as replicas of an engine, and as routes ask for it in a server that has no device.

Does not know about HTTP.
"""
