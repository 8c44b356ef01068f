"""Jobs: tasks that are to complete, in iterations.

Pure. Every change of the spec, a forced one too, begins a new iteration; the tasks of older ones are removed. Slots of
a replicated job count from 0, as Docker's clients expect.
Source: swarmkit/manager/orchestrator/jobs.
"""

import msgspec

from skep.core.orchestrate import modes
from skep.core.orchestrate.replicated import open_slot
from skep.core.orchestrate.roster import Roster, SlotKey
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState
from skep.model.service import JobStatus, Service


def iteration(service: Service, now: Nanoseconds) -> JobStatus | None:
    """What a job's status has to be for its spec; None for services that are no jobs."""
    status, version = service.job_status, service.spec_version
    if not modes.is_job(modes.mode_of(service.spec)):
        return None
    if status is None:
        return JobStatus(last_execution=now, spec_version=version)
    if status.spec_version is None:
        return msgspec.structs.replace(status, spec_version=version)
    if status.spec_version != version:
        return JobStatus(iteration=status.iteration + 1, last_execution=now, spec_version=version)
    return status


def begin_iteration(roster: Roster) -> None:
    """Count up the iteration when the spec changed, and remove what earlier ones left."""
    status = iteration(roster.service, roster.now)
    if status is None:
        return
    if status != roster.service.job_status:
        roster.change_service(job_status=status)
    for task in list(roster.all_tasks()):
        if task.job_iteration != status.iteration:
            roster.stop(task, TaskState.REMOVE)


def fill(roster: Roster) -> None:
    """Start as many tasks of a replicated job as are still to complete and may run at once."""
    total, at_once = modes.job_size(roster.service.spec)
    n_done, n_active, used = 0, 0, set[SlotKey]()
    for key in roster.slot_keys():
        if roster.is_done(key):
            n_done += 1
        elif roster.live(key):
            n_active += 1
        elif roster.is_settled(key):
            n_done += 1  # It failed for good; another slot would fail alike.
        else:
            continue
        used.add(key)
    n_new = min(at_once - n_active, total - n_done - n_active)
    free = (number for number in range(total) if number not in used)
    for number, _ in zip(free, range(max(n_new, 0)), strict=False):
        open_slot(roster, number, must_wait=modes.is_at_most_one(roster.service))
