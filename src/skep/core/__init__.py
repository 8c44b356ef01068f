"""The swarm's decisions: pure functions from a view of the cluster to a plan of changes."""
