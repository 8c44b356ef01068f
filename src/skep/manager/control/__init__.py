"""The swarm's control operations: what users ask for, checked in full and committed."""
