"""Many callers and one device: batches, fair shares, deadlines, the device thread. Knows no picture and no HTTP."""
