"""Cluster state to what one node's kernel must hold, and that as text."""
