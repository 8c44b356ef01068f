"""A project into what Docker's API is sent: names with the stack's prefix, labels, ids in place of keys.

Pure. Source: docker/cli, cli/compose/convert.
"""

import base64
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from typing import Any

import msgspec

from skep.model.network import NetworkAttachmentConfig
from skep.model.service import (
    ConfigReference,
    FileTarget,
    Mount,
    SecretReference,
    ServiceSpec,
    TaskSpec,
    VolumeOptions,
)
from skep.stack.compose import ComposeFile, ComposeNetwork, ComposeService, ComposeVolume, Project
from skep.stack.labels import IMAGE, NAMESPACE
from skep.stack.project import DEFAULT

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ids:
    """What objects are called in the swarm. Attributes: by kind, their ids by full name; missing ones are not there."""

    networks: Map[str, str] = field(default_factory=dict)
    secrets: Map[str, str] = field(default_factory=dict)
    configs: Map[str, str] = field(default_factory=dict)


def full_name(stack: str, part: ComposeNetwork | ComposeVolume | ComposeFile) -> str:
    """An object's name in the swarm: as the file gives it, else with the stack's prefix unless it is external."""
    if part.name:
        return part.name
    return part.key if part.is_external else f"{stack}_{part.key}"


def network_body(stack: str, network: ComposeNetwork) -> Json:
    """What `POST /networks/create` is sent."""
    return {
        "Name": full_name(stack, network),
        "Driver": network.driver,
        "Options": dict(network.driver_opts),
        "IPAM": msgspec.to_builtins(network.ipam),
        "Labels": {**network.labels, NAMESPACE: stack},
        "Attachable": network.is_attachable,
        "Internal": network.is_internal,
        "EnableIPv6": network.enable_ipv6,
    }


def file_body(stack: str, file: ComposeFile) -> Json:
    """What `POST /secrets/create` and `/configs/create` are sent."""
    body: Json = {
        "Name": full_name(stack, file),
        "Labels": {**file.labels, NAMESPACE: stack},
        "Data": base64.b64encode(file.content or b"").decode(),
    }
    if file.templating:
        body["Templating"] = {"Name": file.templating}
    return body


def tagged(image: str) -> str:
    """An image's name with the tag it means; Docker's client writes it out."""
    has_tag = ":" in image.rpartition("/")[2] or "@" in image
    return image if has_tag else f"{image}:latest"


def service_spec(stack: str, project: Project, service: ComposeService, ids: Ids) -> ServiceSpec:
    """What `POST /services/create` is sent. An object that is not there yet is named in place of its id."""
    container = msgspec.structs.replace(
        service.container,
        image=tagged(service.container.image),
        labels={**(service.container.labels or {}), NAMESPACE: stack},
        mounts=[_mount(stack, project, use.mount) for use in service.mounts] or None,
        secrets=[_secret(full_name(stack, project.secrets[u.source]), ids, u.target) for u in service.secrets] or None,
        configs=[_config(full_name(stack, project.configs[u.source]), ids, u.target) for u in service.configs] or None,
    )
    return ServiceSpec(
        name=f"{stack}_{service.name}",
        labels={**service.deploy.labels, NAMESPACE: stack, IMAGE: service.container.image},
        task_template=TaskSpec(
            container_spec=container,
            resources=service.deploy.resources,
            restart_policy=service.deploy.restart,
            placement=service.deploy.placement,
            networks=_attachments(stack, project, service, ids),
            log_driver=service.log_driver,
        ),
        mode=service.deploy.mode,
        update_config=service.deploy.update,
        rollback_config=service.deploy.rollback,
        endpoint_spec=service.endpoint,
    )


def _attachments(stack: str, project: Project, service: ComposeService, ids: Ids) -> list[NetworkAttachmentConfig]:
    if not service.networks:
        name = full_name(stack, project.networks[DEFAULT])
        return [NetworkAttachmentConfig(target=ids.networks.get(name, name), aliases=[service.name])]
    found: list[NetworkAttachmentConfig] = []
    for use in service.networks:
        name = full_name(stack, project.networks[use.network])
        aliases = list(dict.fromkeys((*use.aliases, service.name)))
        options = dict(use.driver_opts) or None
        found.append(NetworkAttachmentConfig(target=ids.networks.get(name, name), aliases=aliases, driver_opts=options))
    return found


def _mount(stack: str, project: Project, mount: Mount) -> Mount:
    if mount.type != "volume" or not mount.source:
        return mount
    volume = project.volumes[mount.source]
    options = mount.volume_options or VolumeOptions()
    if not volume.is_external:
        labels = {**volume.labels, **(options.labels or {}), NAMESPACE: stack}
        options = msgspec.structs.replace(options, labels=labels, driver_config=volume.driver)
    chosen = options if options != VolumeOptions() else None
    return msgspec.structs.replace(mount, source=full_name(stack, volume), volume_options=chosen)


def _secret(name: str, ids: Ids, target: FileTarget) -> SecretReference:
    return SecretReference(file=target, secret_id=ids.secrets.get(name, name), secret_name=name)


def _config(name: str, ids: Ids, target: FileTarget) -> ConfigReference:
    return ConfigReference(file=target, config_id=ids.configs.get(name, name), config_name=name)
