"""Copies the whole state from one store to another, and proves that it is all there.

Edge: the store port, twice. The source must not be written meanwhile. What is written is the difference, in legal
pieces; so a copy that was cut off anywhere is finished by doing it again, and one that is complete writes nothing.
Versions are the target's own: they are revisions, and the target counts by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from skep.ports.store import Row, Store, StoreDamaged, StoreError, Write, transactions


class CopyDiffers(StoreError):
    """The copy is not what was copied: something else writes to one of the stores. Nothing was switched."""


@dataclass(frozen=True, slots=True)
class Copied:
    """Attributes: n_written: this time; source_revision: of what was copied; revision, rows: of the target, checked."""

    n_written: int
    source_revision: int
    revision: int
    rows: Sequence[Row]


async def copy(
    source: Store, target: Store, *, known: Sequence[Row] | None = None, is_source_still: bool = False
) -> Copied:
    """Make the target hold the source's rows and no others.

    Args:
        known: What the target holds, if that is known.
        is_source_still: The caller sees to it that nobody writes to the source; otherwise that is checked.
    Raises:
        CopyDiffers: The check found another state than was copied.
        StoreUnavailable, StoreDamaged: Of either store; doing it again resumes.
        StaleVersion: Something else writes to the target.
    """
    source_revision, rows = await source.load()
    writes = differences(rows, (await target.load())[1] if known is None else known)
    for part in transactions(writes):
        await target.commit(part)
    revision, written = await target.load()
    still = rows if is_source_still else (await source.load())[1]
    for found, where in ((written, "copy"), (still, "source")):
        if (difference := differences(rows, found)) != []:
            first = difference[0]
            raise CopyDiffers(
                f"the {where} differs in {len(difference)} objects, first {first.kind} {first.id}; "
                "see that nothing else writes to it, then copy again"
            )
    return Copied(len(writes), source_revision, revision, written)


def differences(wanted: Sequence[Row], found: Sequence[Row]) -> list[Write]:
    """What to write so that `found` holds what `wanted` does: first what is missing or other, then what is too much."""
    there = {(row.kind, row.id): row for row in found}
    if len(there) < len(found) or len({(row.kind, row.id) for row in wanted}) < len(wanted):
        raise StoreDamaged("a store tells of one object twice; restore it from a backup")
    writes: list[Write] = []
    for row in wanted:
        old = there.pop((row.kind, row.id), None)
        if old is None or old.value != row.value:
            writes.append(Write(row.kind, row.id, row.value, old.version if old is not None else 0))
    writes.extend(Write(row.kind, row.id, None, row.version) for row in there.values())
    return writes
