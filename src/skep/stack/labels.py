"""The labels by which the objects of a stack are known.

Pure. Source: docker/cli, cli/compose/convert.
"""

from typing import Final

NAMESPACE: Final = "com.docker.stack.namespace"
IMAGE: Final = "com.docker.stack.image"


def label_filter(stack: str) -> dict[str, list[str]]:
    """Docker's filter for what belongs to a stack."""
    return {"label": [f"{NAMESPACE}={stack}"]}
