"""One module per group of Engine API routes."""
