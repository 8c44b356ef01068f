"""Domain-free pure helpers."""
