"""Tasks to nodes."""
