"""Embeddings by content on device, host and disk, and images by name. Does not know about requests or queues."""
