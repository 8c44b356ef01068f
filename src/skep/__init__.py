"""Skep: a handful of Linux machines as one swarm."""
