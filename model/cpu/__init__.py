"""The mask decoder in fewer operations, for CPUs; equal to the one in network/. Knows no batches and no files."""
