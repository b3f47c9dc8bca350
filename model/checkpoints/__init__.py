"""Files to parameters, embeddings to bytes, downloads of released weights. Knows no device and no request."""
