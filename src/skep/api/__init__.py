"""The Docker Engine HTTP API over control operations."""
