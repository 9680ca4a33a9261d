"""The contract that every RLT node shares: configuration, codecs, topics, episode files. No torch."""
