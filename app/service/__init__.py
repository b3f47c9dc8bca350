"""The work of the service: a picture becomes an embedding, prompts become masks.

Where to read on:

- A click: `segmentation` declares what routes ask; `service` does it, with `encodings` and `decodings`.
- A picture and its prompts in one request: `segmenting`.
- Everything: `everything`, `search`, `found_masks`.
- A video: `video_service` declares; `videos` does it, with `named_videos`, `open_videos` and `video_upkeep`.
- A track: `track_service` declares; `tracks` does it. `track_state` is one track, `track_states` are all,
  `live_tracks` what they remember on the device; `track_frames`, `propagation`, `track_masks` the steps of a frame.
- How all of it is built: `loading`, `wiring`, `local`.

Does not know about HTTP or JSON.
"""
