"""What can be refused of a service's placement and resources before anything is stored.

Pure. Source: swarmkit/manager/controlapi/service.go (validateResources, validatePlacement).
"""

from skep.core import constraints
from skep.model.errors import InvalidSpec
from skep.model.service import Resources, ServiceSpec

MIN_NANO_CPUS = 1_000_000
MIN_MEMORY_BYTES = 4 << 20


def check_spec(spec: ServiceSpec) -> None:
    """Check resources and placement of a service.

    Raises:
        InvalidSpec: With Docker's wording.
    """
    resources, placement = spec.task_template.resources, spec.task_template.placement
    if resources is not None:
        for wanted in (resources.limits, resources.reservations):
            if wanted is not None:
                _check_amounts(wanted.nano_cpus, wanted.memory_bytes)
        if resources.limits is not None and resources.limits.pids < 0:
            raise InvalidSpec(f"invalid pids limit {resources.limits.pids}: must be 0 (no limit) or more")
        if resources.reservations is not None:
            _check_generic(resources.reservations)
    if placement is not None:
        constraints.parse(placement.constraints)
        if placement.max_replicas < 0:
            raise InvalidSpec(f"invalid max replicas per node {placement.max_replicas}: must be 0 (no limit) or more")


def _check_amounts(nano_cpus: int, memory_bytes: int) -> None:
    if nano_cpus and nano_cpus < MIN_NANO_CPUS:
        raise InvalidSpec(f"invalid cpu value {nano_cpus / 1e9:g}: Must be at least {MIN_NANO_CPUS / 1e9:g}")
    if memory_bytes and memory_bytes < MIN_MEMORY_BYTES:
        raise InvalidSpec(f"invalid memory value {memory_bytes}: Must be at least 4MiB")


def _check_generic(reserved: Resources) -> None:
    for resource in reserved.generic_resources or []:
        discrete = resource.discrete_resource_spec  # One asked for by name is taken, as Docker does, but never found.
        if discrete is not None and (not discrete.kind or discrete.value < 0):
            raise InvalidSpec(f"invalid argument for resource {discrete.kind}: write it as kind=number")
