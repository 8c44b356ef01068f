"""Secrets and configs: small files kept by the swarm.

Pure. Source: Docker API 1.51, definitions SecretSpec, ConfigSpec.
"""

from skep.model.base import Labels, Object, Wire, present_labels
from skep.model.sealed import Sealed
from skep.model.service import DriverConfig

VERSION_OF = "skep.version-of"
"""Label of an older version of a secret or config: whose. The name itself belongs to the newest one."""


class SecretSpec(Wire, frozen=True, kw_only=True):
    """Attributes: data: base64 as sent; always empty in what is kept here, see `Secret.sealed`."""

    name: str = ""
    labels: Labels = present_labels()
    data: str = ""
    driver: DriverConfig | None = None
    templating: DriverConfig | None = None


class ConfigSpec(Wire, frozen=True, kw_only=True):
    name: str = ""
    labels: Labels = present_labels()
    data: str = ""
    templating: DriverConfig | None = None


class Secret(Object, frozen=True, kw_only=True):
    spec: SecretSpec
    sealed: Sealed | None = None


class Config(Object, frozen=True, kw_only=True):
    spec: ConfigSpec
    data: bytes = b""
