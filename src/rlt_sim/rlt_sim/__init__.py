"""Simulated two-arm cell that offers the topics of the real drivers."""
