"""Camera ingest, VLA backends, RL token and their adaptation on demonstrations."""
