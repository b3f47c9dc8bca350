"""Embeddings by content on device, host and disk, and images by name. Knows no request and no queue."""
