"""A service's `volumes:` and `tmpfs:`.

Pure. Source: Compose specification, 05-services.md (volumes, tmpfs).
"""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from skep.model.service import BindOptions, Mount, TmpfsOptions, VolumeOptions
from skep.stack import notation, reading
from skep.stack.compose import MountUse
from skep.stack.errors import ComposeError
from skep.stack.nodes import Mapping, Node, Scalar
from skep.stack.reading import Reading

LONG: Final = {"type", "source", "target", "read_only", "bind", "volume", "tmpfs", "consistency"}
TYPES: Final = ("volume", "bind", "tmpfs")


@dataclass(frozen=True, slots=True)
class Storage:
    """Attributes: absolute: the path a bind mount means, from its text and the node it stands in."""

    absolute: Callable[[str, Node], str]

    def mounts(self, seen: Reading, volumes: Node | None, tmpfs: Node | None) -> tuple[MountUse, ...]:
        """Every mount of a service.

        Raises:
            ComposeError: Also for two mounts at one place.
        """
        found = [self._one(seen, item) for item in (reading.items(volumes) if volumes else ())]
        for item in reading.items(tmpfs) if tmpfs else ():
            target, _, options = reading.text(item).partition(":")
            if options:
                seen.note(item, f"ignored: the options {options[:60]} of a tmpfs; use the long form of `volumes`")
            found.append(MountUse(Mount(type="tmpfs", target=target), item.place))
        targets: set[str] = set()
        for use in found:
            target = posixpath.normpath(use.mount.target)
            if not posixpath.isabs(target):
                raise ComposeError(use.place, f'"{use.mount.target[:80]}" is no absolute path in the container')
            if target in targets:
                raise ComposeError(use.place, f"something is mounted at {target[:80]} already")
            targets.add(target)
        return tuple(found)

    def _one(self, seen: Reading, node: Node) -> MountUse:
        mount = self._short(node) if isinstance(node, Scalar) else self._long(seen, node)
        return MountUse(mount, node.place)

    def _short(self, node: Scalar) -> Mount:
        volume = reading.number(node, notation.read_volume)
        if volume.is_bind:
            options = BindOptions(propagation=volume.propagation) if volume.propagation else None
            source = self.absolute(volume.source, node)
            return Mount(
                type="bind",
                source=source,
                target=volume.target,
                read_only=volume.is_read_only,
                bind_options=options,
            )
        chosen = VolumeOptions(no_copy=True) if volume.is_nocopy else None
        return Mount(
            source=volume.source,
            target=volume.target,
            read_only=volume.is_read_only,
            volume_options=chosen,
        )

    def _long(self, seen: Reading, node: Node) -> Mount:
        entries = seen.known(node, "a volume of a service", LONG)
        for key in ("type", "target"):
            if key not in entries:
                raise ComposeError(node.place, f"a volume of a service has a {key}")
        kind = reading.choice(entries["type"], TYPES)
        for other in set(TYPES) - {kind}:
            if other in entries:
                raise ComposeError(entries[other].place, f"`{other}` says nothing about a mount of type {kind}")
        source = reading.text(entries["source"]) if "source" in entries else ""
        if kind == "bind":
            if not source:
                raise ComposeError(node.place, "a bind mount has a source")
            source = self.absolute(source, entries["source"])
        if kind == "tmpfs" and source:
            raise ComposeError(entries["source"].place, "a tmpfs has no source")
        return Mount(
            type=kind,
            source=source,
            target=reading.text(entries["target"]),
            read_only="read_only" in entries and reading.boolean(entries["read_only"]),
            bind_options=_bind(seen, entries["bind"]) if "bind" in entries else None,
            volume_options=_volume(seen, entries["volume"]) if "volume" in entries else None,
            tmpfs_options=_tmpfs(seen, entries["tmpfs"]) if "tmpfs" in entries else None,
        )


def _bind(seen: Reading, node: Node) -> BindOptions:
    entries = seen.known(node, "`bind`", {"propagation", "create_host_path", "selinux", "recursive"})
    allowed = notation.PROPAGATIONS
    return BindOptions(
        propagation=reading.choice(entries["propagation"], allowed) if "propagation" in entries else "",
        create_mountpoint="create_host_path" in entries and reading.boolean(entries["create_host_path"]),
    )


def _volume(seen: Reading, node: Node) -> VolumeOptions:
    entries = seen.known(node, "`volume`", {"nocopy", "subpath", "labels"})
    return VolumeOptions(
        no_copy="nocopy" in entries and reading.boolean(entries["nocopy"]),
        subpath=reading.text(entries["subpath"]) if "subpath" in entries else "",
        labels=reading.labels(entries["labels"]) if "labels" in entries else None,
    )


def _tmpfs(seen: Reading, node: Mapping | Node) -> TmpfsOptions:
    entries = seen.known(node, "`tmpfs`", {"size", "mode"})
    return TmpfsOptions(
        size_bytes=reading.size(entries["size"]) if "size" in entries else 0,
        mode=reading.file_mode(entries["mode"]) if "mode" in entries else 0,
    )
