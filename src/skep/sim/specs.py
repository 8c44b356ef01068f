"""What services users think of: specs drawn from dice, most of them sound.

Pure over the dice.
"""

import random
from typing import Any

import msgspec

from skep.model.network import NetworkAttachmentConfig
from skep.model.service import (
    ContainerSpec,
    EndpointSpec,
    FailureAction,
    Global,
    GlobalJob,
    Healthcheck,
    Mount,
    Placement,
    PlacementPreference,
    PortConfig,
    PublishMode,
    Replicated,
    ReplicatedJob,
    ResolutionMode,
    ResourceRequirements,
    Resources,
    RestartCondition,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
    UpdateConfig,
    UpdateOrder,
)
from skep.model.service import Protocol as Transport
from skep.sim.loop import SECOND
from skep.sim.machine import LISTEN, LISTEN_AFTER

IMAGES = ("web:1", "web:2", "web:3")
POLITE = "trap 'exit 0' TERM; while :; do sleep 1; done"
DEAF = "while :; do sleep 1; done"
FLAPPING = "sleep 2; exit 1"
JOB = "sleep 1; exit 0"
SOUND = (POLITE, DEAF, JOB)
PORTS = range(8000, 8012)
ZONE = "zone"
AT_MOST_ONE = {"skep.partition": "at-most-one"}
STICKY = {"skep.volume": "sticky"}


class SpecMaker:
    """Draws service specs."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def one_of(self, *choices: Any) -> Any:
        return self._dice.choice(choices)

    def often(self, share: float) -> bool:
        return self._dice.random() < share

    def service(self, name: str, networks: list[str]) -> ServiceSpec:
        """A new service."""
        mode = self._mode()
        is_job = mode.replicated_job is not None or mode.global_job is not None
        endpoint = None if is_job else self.endpoint()
        return ServiceSpec(
            name=name,
            labels={**(AT_MOST_ONE if self.often(0.15) else {}), **(STICKY if self.often(0.15) else {})},
            mode=mode,
            task_template=self._template(is_job=is_job, networks=networks, endpoint=endpoint),
            update_config=None if is_job or self.often(0.2) else self._update(),
            rollback_config=None if is_job or self.often(0.5) else self._rollback(),
            endpoint_spec=endpoint,
        )

    def _mode(self) -> ServiceMode:
        throw = self._dice.random()
        if throw < 0.7:
            return ServiceMode(replicated=Replicated(replicas=self._dice.randint(0, 6)))
        if throw < 0.85:
            return ServiceMode(global_=Global())
        if throw < 0.95:
            return ServiceMode(
                replicated_job=ReplicatedJob(
                    max_concurrent=self._dice.randint(1, 3), total_completions=self._dice.randint(1, 5)
                )
            )
        return ServiceMode(global_job=GlobalJob())

    def endpoint(self) -> EndpointSpec | None:
        """Ports and the way a name resolves."""
        if self.often(0.4):
            return None
        if self.often(0.15):
            return EndpointSpec(mode=ResolutionMode.DNSRR)
        ports = [
            PortConfig(
                protocol=Transport.TCP if self.often(0.8) else Transport.UDP,
                target_port=80 + n,
                published_port=0 if self.often(0.3) else self._dice.choice(PORTS),
                publish_mode=PublishMode.INGRESS if self.often(0.8) else PublishMode.HOST,
            )
            for n in range(self._dice.randint(1, 2))
        ]
        return EndpointSpec(ports=ports)

    def _template(self, *, is_job: bool, networks: list[str], endpoint: EndpointSpec | None) -> TaskSpec:
        joined = [each for each in networks if self.often(0.5)]
        return TaskSpec(
            container_spec=self.container(is_job=is_job, endpoint=endpoint),
            networks=[NetworkAttachmentConfig(target=each) for each in joined] or None,
            resources=self._resources(),
            placement=self._placement(),
            restart_policy=self._restart(is_job=is_job),
        )

    def container(self, *, is_job: bool, endpoint: EndpointSpec | None, is_sound: bool = False) -> ContainerSpec:
        """What runs: mostly something that works."""
        ports = [str(port.target_port) for port in (endpoint.ports or [] if endpoint else [])]
        throw = 1.0 if is_sound else self._dice.random()
        image = "missing" if throw < 0.03 else self._dice.choice(IMAGES)
        script = JOB if is_job else self.one_of(POLITE, POLITE, POLITE, DEAF)
        if 0.03 <= throw < 0.09:
            script = FLAPPING
        command = ["nosuch"] if 0.09 <= throw < 0.12 else ["sh", "-c"]
        has_check = not is_job and self.often(0.2)
        return ContainerSpec(
            image=image,
            command=command,
            args=[script],
            env=[
                f"{LISTEN}={','.join(ports)}",
                f"{LISTEN_AFTER}={self.one_of(0, 0, 0.2, 1)}",
                f"V={self.one_of(1, 2)}",
            ],
            stop_grace_period=self.one_of(SECOND // 2, SECOND, 3 * SECOND, None),
            healthcheck=Healthcheck(test=["CMD", "true"], interval=2 * SECOND, retries=2) if has_check else None,
            mounts=[Mount(type="volume", source="data", target="/data")] if self.often(0.5) else None,
        )

    def _resources(self) -> ResourceRequirements | None:
        if self.often(0.7):
            return None
        wanted = Resources(
            nano_cpus=self.one_of(0, 5 * 10**8, 15 * 10**8), memory_bytes=self.one_of(0, 1 << 30, 3 << 30)
        )
        return ResourceRequirements(reservations=wanted)

    def _placement(self) -> Placement | None:
        if self.often(0.7):
            return None
        constraints = self.one_of(["node.labels.zone==a"], ["node.labels.zone!=b"], ["node.role==worker"], None)
        spread = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone"))
        return Placement(
            constraints=constraints,
            preferences=[spread] if constraints is None or self.often(0.3) else None,
            max_replicas=self.one_of(0, 0, 2),
        )

    def _restart(self, *, is_job: bool) -> RestartPolicy | None:
        if self.often(0.3):
            return None
        condition = RestartCondition.ON_FAILURE if is_job or self.often(0.2) else RestartCondition.ANY
        return RestartPolicy(
            condition=condition,
            delay=self.one_of(0, SECOND // 2, SECOND, 2 * SECOND),
            max_attempts=self.one_of(None, None, None, 3),
            window=self.one_of(None, 10 * SECOND),
        )

    def _update(self) -> UpdateConfig:
        return UpdateConfig(
            parallelism=self.one_of(0, 1, 1, 2, 3),
            delay=self.one_of(0, 0, SECOND),
            failure_action=self.one_of(FailureAction.PAUSE, FailureAction.CONTINUE, FailureAction.ROLLBACK),
            monitor=self.one_of(SECOND, 3 * SECOND),
            max_failure_ratio=self.one_of(0.0, 0.0, 0.5),
            order=self.one_of(UpdateOrder.STOP_FIRST, UpdateOrder.START_FIRST),
        )

    def _rollback(self) -> UpdateConfig:
        action = self.one_of(FailureAction.PAUSE, FailureAction.CONTINUE)
        return msgspec.structs.replace(self._update(), failure_action=action)

    def changed(self, spec: ServiceSpec, networks: list[str]) -> ServiceSpec:
        """A service's spec with something else in it."""
        replace = msgspec.structs.replace
        template = spec.task_template
        is_job = spec.mode.replicated_job is not None or spec.mode.global_job is not None
        match self._dice.randrange(7):
            case 0 | 1 if spec.mode.replicated is not None:
                wanted = Replicated(replicas=self._dice.randint(0, 6))
                return replace(spec, mode=ServiceMode(replicated=wanted))
            case 2:
                return replace(spec, task_template=replace(template, force_update=template.force_update + 1))
            case 3 if not is_job:
                endpoint = self.endpoint()
                container = self.container(is_job=False, endpoint=endpoint)
                return replace(spec, endpoint_spec=endpoint, task_template=replace(template, container_spec=container))
            case 4:
                joined = [NetworkAttachmentConfig(target=each) for each in networks if self.often(0.5)]
                return replace(spec, task_template=replace(template, networks=joined or None))
            case 5:
                return replace(spec, task_template=replace(template, placement=self._placement()))
            case _:
                container = self.container(is_job=is_job, endpoint=spec.endpoint_spec)
                return replace(spec, task_template=replace(template, container_spec=container))


def is_sound(service: Service) -> bool:
    """Whether a service's tasks can run, and no update of it is stuck."""
    status = service.update_status
    if status is not None and status.state in ("paused", "rollback_paused"):
        return False
    container = service.spec.task_template.container_spec
    if container is None or container.image not in IMAGES or container.command != ["sh", "-c"]:
        return False
    return bool(container.args) and (container.args or [""])[0] in SOUND
