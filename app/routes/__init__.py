"""The HTTP and WebSocket endpoints: parse, call the service, reply. Knows no queue, no tier and no thread."""
