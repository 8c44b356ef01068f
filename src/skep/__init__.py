"""Skep: a handful of Linux machines as one swarm."""

__version__ = "0.1.0"
