"""The encoder, the mask decoder and memory attention in fewer operations, for CPUs; equal to those in network/.

Knows no files and no requests.
"""
