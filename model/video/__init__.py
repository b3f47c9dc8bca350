"""The story of a video: which memories a frame sees, what it leaves, and what a user's corrections change.

The network that is asked is model/network/memory.py. Knows no files, no time, and nobody who waits.
"""
