"""Loops that carry out assignments on a node."""
