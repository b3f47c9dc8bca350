"""The HTTP service: requests, time and bytes. Knows no tensors; they stay behind app/segmenter.py."""
