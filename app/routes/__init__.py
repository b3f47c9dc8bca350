"""The HTTP and WebSocket endpoints: parse, call the service, reply. Knows no queues, tiers or threads."""
