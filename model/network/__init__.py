"""The network of the SAM 2 paper, one file for each box of its diagram. Knows no device and no fast path."""
