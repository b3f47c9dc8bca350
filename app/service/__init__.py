"""The stories of the service: a picture becomes an embedding, prompts become masks. Knows no HTTP and no JSON."""
