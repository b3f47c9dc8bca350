"""What surrounds every request: id, log line, keys, rates, CORS, connections. Knows no endpoint and no model."""
