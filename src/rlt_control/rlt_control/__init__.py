"""Chunk executor: the only part of RLT that commands an arm."""
