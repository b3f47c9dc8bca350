"""The work of the service: a picture becomes an embedding, prompts become masks.

Does not know about HTTP or JSON.
"""
