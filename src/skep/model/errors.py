"""Every refusal the swarm can give, by what the caller can do about it.

Pure. One sentence each: what, why, what to do. `api.errors` alone maps them to HTTP statuses.
"""


class SkepError(Exception):
    """Base of all refusals; `str()` of it is fit to be shown."""


class InvalidSpec(SkepError):
    """What was sent cannot be meant: mend it and send again (400)."""


class NotFound(SkepError):
    """No object of that id or name (404)."""


class Conflict(SkepError):
    """A name or number is taken already (409)."""


class InUse(SkepError):
    """The object is needed by others, or its state forbids the operation (400 in Docker)."""


class Forbidden(SkepError):
    """The caller may not do this (403)."""


class Removed(Forbidden):
    """The node was removed from the swarm."""


class Unauthenticated(SkepError):
    """The caller's token or key is wrong (401)."""


class OutOfDate(SkepError):
    """The object changed since it was read: read it again (500 in Docker, with its sentence)."""


class NotManager(SkepError):
    """This node cannot answer: it is in no swarm, or is a worker (503)."""


class NoQuorum(SkepError):
    """Too few managers are reachable to write (503)."""


class Unavailable(SkepError):
    """Something this needs is away at present, such as the engine or a node: try again (503)."""


class Disconnected(Unavailable):
    """The way to a node broke off amid a stream: it is likely to be there again in a moment (503)."""


class Unsupported(SkepError):
    """Not done here, with what to use instead (501)."""
