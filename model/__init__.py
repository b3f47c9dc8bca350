"""SAM 2 in PyTorch: tensors and files. Knows no HTTP, no asyncio and no environment."""
