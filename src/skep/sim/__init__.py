"""The swarm in one process, from one seed: real managers and agents in a simulated world with faults."""
