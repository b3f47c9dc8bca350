"""The HTTP service: requests, time and bytes. Does not know about tensors; they stay behind app/segmenter.py."""
