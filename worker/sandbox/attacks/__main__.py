"""`python -m worker.sandbox.attacks GROUP`: an audit process that attacks instead of auditing, as a hostile model would.

GROUP is `calls`, which tries every call and tells how each was refused, the name of one attack that runs until it is stopped,
or `layers`, which attacks nothing.
"""

import sys
from collections.abc import Callable
from typing import NoReturn

from schemas.errors import Fault, ModelRefused
from worker import child
from worker.messages import JobMessage
from worker.sandbox.attacks.bait import Bait
from worker.sandbox.attacks.calls import ALLOWED, CALLS, attempt
from worker.sandbox.attacks.exhaustion import EXHAUSTION, X86_ONLY
from worker.sandbox.attacks.models import MODELS, import_libraries

SUCCEEDED = "succeeded"
BAIT = "bait"
LAYERS_ONLY, CALLS_GROUP = "layers", "calls"
ReportProgress = Callable[[str, int, int], None]


def try_calls(bait: Bait) -> NoReturn:
    """Try every call."""
    raise ModelRefused(*(Fault(name, got=attempt(attack, bait) or SUCCEEDED) for name, attack in {**CALLS, **ALLOWED}.items()))


def try_one(name: str, bait: Bait) -> NoReturn:
    """Try an attack that something else than a refused call may stop."""
    attack = {**EXHAUSTION, **X86_ONLY, **MODELS}[name]
    try:
        attack(bait)
    except Exception as error:  # noqa: BLE001 - whatever refused it; libraries have exceptions of their own
        last = str(error).strip().splitlines()[-1:]
        raise ModelRefused(Fault(name, got=": ".join([type(error).__name__, *last])[:300])) from None
    raise ModelRefused(Fault(name, got=SUCCEEDED))


def prepare(group: str) -> None:
    """Import what attacks by models need, as a real audit process does before it is confined."""
    if group in MODELS:
        import_libraries()


def main() -> None:
    """Serve one job as an audit process does, up to the audit itself."""
    group = sys.argv.pop(1)

    def warm_up(_device: str, _threads: int) -> child.Work:
        prepare(group)

        def attack(job: JobMessage, _report: ReportProgress) -> NoReturn:
            bait = Bait.decode(job.request[BAIT])
            if group == LAYERS_ONLY:
                raise ModelRefused(Fault("nothing is attacked"))
            if group == CALLS_GROUP:
                try_calls(bait)
            try_one(group, bait)

        return attack

    child.main(warm_up)


if __name__ == "__main__":
    main()
