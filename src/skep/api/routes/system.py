"""Ping, version and info: what this daemon is.

Edge: HTTP, and the engine's own /info where it has one. Source: Docker API 1.51, tag System.
"""

import asyncio
import os
import platform
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

import skep
from skep.api import documents, errors, versions
from skep.api.authorize import EVERYONE, SWARM
from skep.api.backend import Control
from skep.api.call import Call, Route
from skep.api.wire import Document
from skep.core.quorum import NO_LEADER
from skep.lib.timestamps import format_rfc3339
from skep.model.errors import NotManager, SkepError, Unavailable
from skep.model.node import Role
from skep.ports.runtime import EngineFacts, RuntimeFailure

OUT_OF_DATE: Final = (
    "WARNING: more than half of the managers cannot be reached from this one; "
    "what it shows of the swarm may be out of date, and nothing can be changed"
)
_FROM_ENGINE: Final = (
    "Containers",
    "ContainersRunning",
    "ContainersPaused",
    "ContainersStopped",
    "Images",
    "Driver",
    "DriverStatus",
    "LoggingDriver",
    "CgroupDriver",
    "CgroupVersion",
    "KernelVersion",
    "IndexServerAddress",
    "RegistryConfig",
    "Runtimes",
    "DefaultRuntime",
    "SecurityOptions",
)
TWO_MANAGERS: Final = """\
WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.
         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the
         Swarm for fault-tolerance."""
_ENGINE_ANSWERS_S: Final = 3.0
GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


async def ping(call: Call) -> web.StreamResponse:
    """GET and HEAD /_ping; what clients want of it is in the headers."""
    return web.Response(
        text="" if call.request.method == "HEAD" else "OK",
        content_type="text/plain",
        headers={"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache", "Builder-Version": "1"},
    )


async def version(call: Call) -> web.StreamResponse:
    """GET /version."""
    facts = await _facts(call)
    kernel = platform.release()
    details = {
        "ApiVersion": versions.spell(versions.CURRENT),
        "MinAPIVersion": versions.spell(versions.OLDEST),
        "Arch": _go_architecture(facts.architecture),
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": kernel,
        "Os": facts.os,
    }
    components: list[Document] = [{"Name": "Engine", "Version": skep.__version__, "Details": details}]
    components.append({"Name": facts.name, "Version": facts.version, "Details": {}})
    return call.reply(
        {
            "Platform": {"Name": "Skep"},
            "Components": components,
            "Version": skep.__version__,
            "ApiVersion": versions.spell(versions.CURRENT),
            "MinAPIVersion": versions.spell(versions.OLDEST),
            "GitCommit": "",
            "GoVersion": "",
            "Os": facts.os,
            "Arch": _go_architecture(facts.architecture),
            "KernelVersion": kernel,
            "BuildTime": "",
        }
    )


async def info(call: Call) -> web.StreamResponse:
    """GET /info: this machine, its engine, its part in the swarm."""
    node = call.node
    facts = await _facts(call)
    from_engine = await _engine_part(call)
    document: Document = {
        "ID": node.engine_id,
        "Name": node.hostname,
        "ServerVersion": skep.__version__,
        "SystemTime": format_rfc3339(call.backend.clock.now()),
        "DockerRootDir": str(node.data_dir),
        "Containers": 0,
        "ContainersRunning": 0,
        "ContainersPaused": 0,
        "ContainersStopped": 0,
        "Images": 0,
        "Driver": facts.name,
        "DriverStatus": [],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null", "overlay"],
            "Authorization": None,
            "Log": ["json-file"],
        },
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "IPv4Forwarding": True,
        "Debug": False,
        "NFd": 0,
        # Older clients warn of these three when they are missing: what they are about, Skep does without them.
        "OomKillDisable": True,
        "BridgeNfIptables": True,
        "BridgeNfIp6tables": True,
        "NGoroutines": len(asyncio.all_tasks()),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "1",
        "NEventsListener": 0,
        "KernelVersion": platform.release(),
        "OperatingSystem": _operating_system(),
        "OSVersion": "",
        "OSType": facts.os,
        "Architecture": platform.machine(),
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": None,
        "NCPU": facts.cpu_nano // 1_000_000_000 or os.cpu_count() or 1,
        "MemTotal": facts.memory_bytes,
        "GenericResources": None,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Labels": [],
        "ExperimentalBuild": False,
        "Runtimes": {},
        "DefaultRuntime": "",
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": [],
        "CDISpecDirs": [],
    }
    document |= {key: from_engine[key] for key in _FROM_ENGINE if from_engine.get(key) not in (None, "")}
    document["Swarm"] = _swarm(call)
    document["Warnings"] = list(_warnings(call, facts.problems)) or None
    return call.reply(document)


async def _facts(call: Call) -> EngineFacts:
    try:
        return await call.node.engine_facts()
    except (RuntimeFailure, SkepError) as error:
        problem = f"the container engine does not answer: {error}"
        return EngineFacts("unknown", "", "linux", platform.machine(), 0, _memory_bytes(), (problem,))


async def _engine_part(call: Call) -> dict[str, Any]:
    """What the engine says of itself; nothing if it has no such API or does not answer."""
    if not call.backend.engine.is_there:
        return {}
    try:
        async with asyncio.timeout(_ENGINE_ANSWERS_S):
            engine = call.backend.engine
            answer = await engine.ask_json("GET", f"{await engine.prefix()}/info")
    except (*errors.Refusal, TimeoutError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _control(call: Call) -> Control | None:
    """The swarm's operations; None on a worker, and on a manager that is still starting."""
    try:
        return call.control
    except (NotManager, Unavailable):
        return None


def _swarm(call: Call) -> Document:
    local = call.node.local_state
    section: Document = {
        "NodeID": local.node_id,
        "NodeAddr": local.node_addr,
        "LocalNodeState": local.state,
        "ControlAvailable": local.has_control,
        "Error": local.error,
        "RemoteManagers": [{"NodeID": each.node_id, "Addr": each.addr} for each in local.managers] or None,
    }
    control = _control(call)
    if control is not None:
        nodes = control.view.nodes
        section["Error"] = section["Error"] or (NO_LEADER if control.is_stale else "")
        section["Nodes"] = len(nodes)
        section["Managers"] = sum(node.role == Role.MANAGER for node in nodes.values())
        section["Cluster"] = documents.cluster(control.cluster(), control.tls_info)
    return section


def _warnings(call: Call, problems: Sequence[str]) -> Sequence[str]:
    found = [f"WARNING: {problem}" for problem in problems]
    control = _control(call)
    if control is not None:
        managers = sum(node.role == Role.MANAGER for node in control.view.nodes.values())
        if managers == 2:
            found.append(TWO_MANAGERS)
        if control.is_stale:
            found.append(OUT_OF_DATE)
    return found


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _go_architecture(machine: str) -> str:
    """A machine's name as Go spells it, which is how clients compare it with their own."""
    return GO_ARCHITECTURES.get(machine, machine)


ROUTES: Final = (
    Route("GET", "/_ping", ping, EVERYONE),
    Route("HEAD", "/_ping", ping, EVERYONE),
    Route("GET", "/version", version, EVERYONE),
    Route("GET", "/info", info, SWARM),
)
