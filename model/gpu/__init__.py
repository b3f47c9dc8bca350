"""An arena of embeddings, captured graphs and streams, for GPUs. Knows no files and no precision policy."""
