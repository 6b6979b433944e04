"""Where a request's job waits: its queue and priority, and what its tenant may ask for."""

from schemas.errors import Fault, InvalidRequest
from schemas.kinds import JobRequest
from schemas.request import AuditRequest
from service.settings import Settings
from storage.placement import Placement


def place(request: JobRequest, owner: str, settings: Settings) -> Placement:
    """Return where the job of a request waits.

    Raises:
        InvalidRequest: with a fault for a class of device that nobody serves, and for a priority that the tenant may not have.

    """
    limits = settings.find_limits(owner)
    if not isinstance(request, AuditRequest):
        return Placement(settings.device, max_running=limits.max_running, max_live=limits.max_live_jobs)
    faults = [*_find_device_faults(request, settings), *_find_priority_faults(request, limits.highest_priority)]
    if faults:
        raise InvalidRequest(*faults)
    device = request.device or settings.device
    return Placement(device, request.priority, limits.max_running, request.deadline_s, limits.max_live_jobs)


def _find_device_faults(request: AuditRequest, settings: Settings) -> list[Fault]:
    served = sorted({settings.device, *settings.devices})
    if request.device is None or request.device in served:
        return []
    advice = "Leave device out, or ask the operator for workers of that class and for its name in FAULTLINE_DEVICES."
    return [Fault("no worker here has such a device", "/device", " or ".join(served), request.device, advice)]


def _find_priority_faults(request: AuditRequest, highest: int) -> list[Fault]:
    if request.priority >= highest:
        return []
    advice = "Ask for a larger number, or ask the operator for a better one."
    return [Fault("the priority is better than yours may be", "/priority", f"{highest} to 9", str(request.priority), advice)]
