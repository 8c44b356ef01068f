"""Compose files: read, merged, turned into Docker's API objects and compared with what runs."""
