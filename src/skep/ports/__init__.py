"""Protocols the loops need and the edges implement."""
