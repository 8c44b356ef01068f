"""A stack in the swarm: what there is of it, and a plan carried out.

Edge: the daemon. What is to be done is decided in `skep.stack`; here it is asked for, one object at a time, so that a
deployment that is cut off can be run again and goes on where it stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote

import click

from skep.cli.client import Engine, Json
from skep.edge.unix_http import EngineRefused
from skep.stack import plan as plans
from skep.stack.compose import Project
from skep.stack.labels import label_filter
from skep.stack.plan import Current, StackPlan, Step

ATTEMPTS = 5
CREATE = {"network": "/networks/create", "secret": "/secrets/create", "config": "/configs/create"}
GONE = 404


def read_current(engine: Engine, stack: str) -> Current:
    """What the swarm has: every network, secret and config by name, as stacks may use others', and the own services."""
    services = engine.list("/services", label_filter(stack))
    return Current(
        services={service["Spec"]["Name"]: service for service in services},
        networks={network["Name"]: network for network in engine.list("/networks")},
        secrets={secret["Spec"]["Name"]: secret for secret in engine.list("/secrets")},
        configs={config["Spec"]["Name"]: config for config in engine.list("/configs")},
    )


@dataclass(slots=True)
class Deployment:
    """One `stack deploy` at work.

    Attributes:
        say: Prints a line for the user. has_login: services get what docker login left for their registries.
    """

    engine: Engine
    stack: str
    project: Project
    say: Callable[[str], None]
    is_pruning: bool = False
    has_login: bool = False

    def plan(self) -> StackPlan:
        current = read_current(self.engine, self.stack)
        planned = plans.plan(self.stack, self.project, current, is_pruning=self.is_pruning)
        changed = [step.name for step in planned.of("secret", "keep", "update") if not self._holds(step)]
        problems = (
            f'the content of secret "{name}" has changed, and a secret never changes; give it a new `name:`'
            for name in changed
        )
        return replace(planned, problems=(*planned.problems, *problems))

    def _holds(self, step: Step) -> bool:
        """Whether a secret has the content the file gives it: never shown, but an update that changes nothing tells."""
        body = {**step.body, "Labels": step.current["Spec"].get("Labels") or {}}
        try:
            self._update_file(step, body)
        except EngineRefused as error:
            if "only updates to Labels" not in error.message:
                raise
            return False
        return True

    def _update_file(self, step: Step, body: Json) -> None:
        version = step.current["Version"]["Index"]
        self.engine.post(f"/{step.kind}s/{quote(step.current['ID'])}/update", body, version=version)

    def prepare(self, planned: StackPlan) -> StackPlan:
        """Make networks, secrets and configs.

        Returns:
            The plan again, with the ids of what was made in the services' specs.
        """
        steps = [step for step in planned.changes if step.kind != "service"]
        for step in steps:
            self.say(f"{_DOING[step.verb]} {step.kind} {step.name}")
            if step.verb == "create":
                self.engine.post(CREATE[step.kind], step.body)
            else:
                self._update_file(step, step.body)
        return self.plan() if steps else planned

    def write_service(self, step: Step) -> None:
        """Create or update a service, or remove one that left the file."""
        self.say(f"{_DOING[step.verb]} service {step.name}")
        if step.verb == "remove":
            _delete(self.engine, f"/services/{quote(step.current['ID'])}")
            return
        if step.verb == "create":
            answer = self.engine.post_with_login("/services/create", step.body, self._login(step))
        else:
            answer = self._update(step)
        for warning in (answer or {}).get("Warnings") or []:
            click.echo(warning, err=True)

    def renew_login(self, step: Step) -> None:
        """Give a service that stays as it is newer credentials for its registry, if any are to be given."""
        if self.has_login and self._login(step):
            self._update(step)

    def _login(self, step: Step) -> str:
        if not self.has_login:
            return ""
        from skep.cli import registry_login  # Imported late: it brings the model of images along.

        return registry_login.auth_header(step.body["TaskTemplate"]["ContainerSpec"]["Image"])

    def _update(self, step: Step) -> Json | None:
        """Update a service, read anew because the swarm's own bookkeeping gives it a new version at any time."""
        path = f"/services/{quote(step.current['ID'])}"
        login = self._login(step)
        attempt = 0
        while True:
            found = self.engine.get(path)
            body = plans.carried_over(step.body, found["Spec"])
            try:
                version = found["Version"]["Index"]
                answer: Json | None = self.engine.post_with_login(f"{path}/update", body, login, version=version)
            except EngineRefused as error:
                attempt += 1
                if "out of sequence" not in error.message or attempt == ATTEMPTS:
                    raise
            else:
                return answer


_DOING = {"create": "Creating", "update": "Updating", "remove": "Removing"}


def remove(engine: Engine, stack: str, say: Callable[[str], None]) -> bool:
    """Remove everything of a stack, services first.

    Returns:
        Whether there was anything.
    """
    steps = plans.removal(stack, read_current(engine, stack)).steps
    for step in steps:
        say(f"Removing {step.kind} {step.name}")
        _delete(engine, f"/{step.kind}s/{quote(step.current.get('ID') or step.current['Id'])}")
    return bool(steps)


def _delete(engine: Engine, path: str) -> None:
    try:
        engine.delete(path)
    except EngineRefused as error:
        if error.status != GONE:
            raise
