"""From services to tasks: how many, of which spec, and what to do when they end. Begin at `reconcile`."""
