"""The skep command line; it speaks HTTP only."""
