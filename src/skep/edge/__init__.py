"""Adapters that touch the world: disks, sockets, engines, the kernel."""
