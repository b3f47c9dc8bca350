"""Many callers and one device: batches, fair shares, deadlines, the device thread.

Does not know about pictures or HTTP.
"""
