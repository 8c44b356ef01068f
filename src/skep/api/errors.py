"""Refusals as HTTP statuses with Docker's wording.

Pure. The one place that knows which refusal is which status. Source: moby's daemon/server/httpstatus and errdefs, where
gRPC's codes become statuses.
"""

from skep.model import errors
from skep.ports import runtime, store

STALE = "rpc error: code = Unknown desc = update out of sequence"
"""What clients look for when an object changed since they read it; Docker answers it with 500."""

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.InvalidSpec, 400),
    (errors.InUse, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unsupported, 501),
    (errors.NotManager, 503),
    (errors.NoQuorum, 503),
    (errors.Unavailable, 503),
    (runtime.ImageMissing, 404),
    (runtime.NoSuchContainer, 404),
    (runtime.EngineUnreachable, 503),
    (runtime.RuntimeFailure, 500),
    (store.StoreUnavailable, 503),
    (store.LeaseLost, 503),
)

Refusal = (errors.SkepError, runtime.RuntimeFailure, store.StoreError)
"""What a handler may let through; anything else is a defect of ours."""


class TooLarge(errors.SkepError):
    """The body is longer than its route takes (413)."""


class TooSlow(errors.SkepError):
    """The body did not arrive in time (408)."""


class EngineFailure(errors.SkepError):
    """The node's engine answered what cannot be passed on, or nothing (502)."""


def status_of(error: Exception) -> tuple[int, str]:
    """Turn a refusal into a status and the message to send."""
    match error:
        case errors.OutOfDate() | store.StaleVersion():
            return 500, STALE
        case TooLarge():
            return 413, str(error)
        case TooSlow():
            return 408, str(error)
        case EngineFailure():
            return 502, str(error)
        case _:
            return next((status for kind, status in _STATUS if isinstance(error, kind)), 500), str(error)
