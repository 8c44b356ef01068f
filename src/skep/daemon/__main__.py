"""`python -m skep.daemon`, for those who start it without the `skep` command."""

from skep.daemon.commands import daemon

daemon()
