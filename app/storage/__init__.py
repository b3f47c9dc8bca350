"""Embeddings by content on device, host and disk, and images by name. Does not know about requests or queues.

Where to read on:

- `store` is what the service sees: names in a `register`, embeddings in `tiers`. `opening` builds it from settings.
- A tier in memory: `memory_tier`. What outlives the process: `kept`, as files (`embedding_files`) or objects of a
  `bucket` (`embedding_objects`); videos (`kept_videos`) and tracks (`kept_tracks`) likewise.
- Names in SQLite: `register_file`. Names that servers share: `postgres`, and all that begins with `shared_`.
- What may meet: an upload and a DELETE (`claims`), two servers (`arriving`, `written`), too many files (`surplus`).
"""
