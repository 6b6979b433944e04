"""The error tree: one class per situation a caller can act on. Standard library only.

FaultlineError
├── RequestError            the request cannot mean anything           4xx
│   ├── InvalidRequest      malformed or impossible fields             422
│   ├── BadBody             not JSON                                   400
│   ├── UnsupportedMedia    another media type or encoding             415
│   ├── TooLarge            body over the limit                        413
│   ├── NotFound            no such audit, artifact, route             404
│   ├── MethodNotAllowed    the route has other methods                405
│   ├── NotAcceptable       no such representation                     406
│   ├── Conflict            the state forbids it                       409
│   ├── IdempotencyMismatch same key, other body                       422
│   ├── NotAuthenticated    no key, or none that is valid              401
│   ├── Forbidden           the caller may not do this                 403
│   ├── TooManyRequests     the tenant calls too often                 429
│   ├── QuotaExceeded       the tenant holds as much as it may         429
│   └── DigestMismatch      the bytes are not what the name says       422
├── AuditError              the audit was accepted and cannot be done  job failed
│   ├── ModelUnreadable     truncated, not what its format says
│   ├── ModelRefused        readable, but not auditable as it is
│   ├── UnsupportedOperator operators outside the table, all listed
│   ├── ParityError         our outputs differ from the runtime's
│   ├── NoParameters        nothing to corrupt
│   ├── DataUnreadable      truncated, pickled, not what its format says
│   ├── DataMismatch        columns, shapes, dtypes, labels do not fit
│   └── ScopeError          a requested scope matches nothing
├── FetchError              a reference cannot be fetched              job failed
│   ├── FetchRefused        the place, its address or a link on the way is not allowed
│   └── FetchFailed         it is not there, too large, too slow, or not what was pinned
├── LimitError              a resource ran out                         job failed
│   ├── TimeLimit
│   ├── DeadlineMissed      nothing was measured by the request's own deadline
│   ├── MemoryLimit
│   ├── ScratchLimit
│   └── AttemptsExhausted                                              quarantined
├── Cancelled                                                          job cancelled
├── WorkerFault             the worker's own failure, retried elsewhere
│   └── SandboxTooWeak      a layer is missing that the operator requires
└── Unavailable             broker or store out of reach               503
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: what, where (JSON pointer, file or node), expected, got, and what to do."""

    what: str
    where: str = ""
    expected: str = ""
    got: str = ""
    advice: str = ""


@dataclass(frozen=True)
class OperatorFault(Fault):
    """An operator, or a form of one, that is not supported: how many nodes have it, and the names of the first of them."""

    operator: str = ""
    domain: str = ""
    count: int = 0
    nodes: tuple[str, ...] = ()


class FaultlineError(Exception):
    """An error that a user can read; carries every fault that was found, not only the first."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("; ".join(fault.what for fault in faults) or self.title)


class RequestError(FaultlineError):
    """The request cannot be carried out as it stands."""

    code, title, status = "request", "Bad request", 400


class InvalidRequest(RequestError):
    """Fields are malformed, unknown or impossible together."""

    code, title, status = "invalid_request", "The request is not valid", 422


class BadBody(RequestError):
    """The body is not JSON."""

    code, title, status = "bad_body", "The body cannot be read", 400


class UnsupportedMedia(RequestError):
    """The body has another media type or encoding than the route takes."""

    code, title, status = "unsupported_media", "The media type is not supported", 415


class TooLarge(RequestError):
    """The body is over the configured limit."""

    code, title, status = "too_large", "The body is too large", 413


class NotFound(RequestError):
    """There is no such audit, artifact or route, or it is not the caller's."""

    code, title, status = "not_found", "Not found", 404


class MethodNotAllowed(RequestError):
    """The route exists, but not with this method."""

    code, title, status = "method_not_allowed", "The method is not allowed here", 405


class NotAcceptable(RequestError):
    """The route has no representation of the media types that the caller accepts."""

    code, title, status = "not_acceptable", "No acceptable representation", 406


class Conflict(RequestError):
    """The audit's state does not allow this."""

    code, title, status = "conflict", "The state does not allow this", 409


class IdempotencyMismatch(RequestError):
    """The Idempotency-Key was used before with another body."""

    code, title, status = "idempotency_mismatch", "Idempotency-Key reused with another request", 422


class DigestMismatch(RequestError):
    """The bytes do not have the sha-256 that was promised."""

    code, title, status = "digest_mismatch", "The digest does not match", 422


class NotAuthenticated(RequestError):
    """The caller shows no key, or none that is known, unexpired and not revoked."""

    code, title, status = "not_authenticated", "A valid key is needed", 401


class Forbidden(RequestError):
    """The caller is known and may not do this."""

    code, title, status = "forbidden", "This is not allowed", 403


class TooManyRequests(RequestError):
    """The tenant calls more often than it may."""

    code, title, status = "too_many_requests", "Too many requests", 429

    def __init__(self, *faults: Fault, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(*faults)


class QuotaExceeded(TooManyRequests):
    """The tenant holds as much as it may; something of it has to end or to go first."""

    code, title = "quota_exceeded", "A quota is used up"


class AuditError(FaultlineError):
    """The audit cannot be done on this model and data; running it again will not help."""

    code, title, status = "audit", "The audit cannot be done", 422


class ModelUnreadable(AuditError):
    """The model file is truncated or is not what its format says."""

    code, title = "model_unreadable", "The model cannot be read"


class ModelRefused(AuditError):
    """The model is readable but cannot be audited as it is."""

    code, title = "model_refused", "The model cannot be audited as it is"


class UnsupportedOperator(AuditError):
    """The model uses operators that are not in the support table; every one is listed."""

    code, title = "unsupported_operator", "The model uses unsupported operators"

    def __init__(self, *faults: Fault, partial: object = None) -> None:
        self.partial = partial
        """The rest of the model, in the engine's form, where it could be read; it cannot be run."""
        super().__init__(*faults)


class ParityError(AuditError):
    """Our outputs differ from those of the runtime that the model is deployed in."""

    code, title = "parity", "Our outputs differ from the runtime's"


class NoParameters(AuditError):
    """The model has no floating-point weight on a path to the loss."""

    code, title = "no_parameters", "The model has no weights to corrupt"


class DataUnreadable(AuditError):
    """The data file is truncated, pickled or is not what its format says."""

    code, title = "data_unreadable", "The data cannot be read"


class DataMismatch(AuditError):
    """Columns, shapes, dtypes or labels do not fit the model and objective."""

    code, title = "data_mismatch", "The data does not fit the model"


class ScopeError(AuditError):
    """A requested scope matches no weight of the model."""

    code, title = "scope", "A scope matches no weights"


class FetchError(FaultlineError):
    """A file that the request names by its place cannot be fetched."""

    code, title, status = "fetch", "A file cannot be fetched", 422


class FetchRefused(FetchError):
    """The place, an address that it leads to or a redirect on the way is not allowed."""

    code, title = "fetch_refused", "A file may not be fetched"


class FetchFailed(FetchError):
    """The file is not there, too large, too slow, or has not the digest that was pinned."""

    code, title = "fetch_failed", "A file could not be fetched"


class LimitError(FaultlineError):
    """A resource ran out."""

    code, title = "limit", "A limit was reached"


class TimeLimit(LimitError):
    """The audit ran into its wall-clock limit."""

    code, title = "time_limit", "The audit ran out of time"


class DeadlineMissed(LimitError):
    """The deadline of the request came before anything was measured."""

    code, title = "deadline_missed", "The deadline came first"


class MemoryLimit(LimitError):
    """The audit ran into its memory limit."""

    code, title = "memory_limit", "The audit ran out of memory"


class ScratchLimit(LimitError):
    """The audit ran out of room for its files."""

    code, title = "scratch_limit", "The audit ran out of scratch space"


class AttemptsExhausted(LimitError):
    """Every attempt at the audit lost its worker."""

    code, title = "attempts_exhausted", "Every attempt lost its worker"


class Cancelled(FaultlineError):
    """The caller cancelled the audit."""

    code, title, status = "cancelled", "The audit was cancelled", 409


class WorkerFault(FaultlineError):
    """The audit process died or said something it must not say."""

    code, title = "worker_fault", "The audit process failed"


class SandboxTooWeak(WorkerFault):
    """The operator requires a sandbox that this machine does not give; no model is opened."""

    code, title = "sandbox_too_weak", "The sandbox is too weak"


class Unavailable(FaultlineError):
    """The broker or a store is out of reach for the moment."""

    code, title, status = "unavailable", "Temporarily unavailable", 503


ErrorT = TypeVar("ErrorT", bound=FaultlineError)


def join_errors(errors: Sequence[ErrorT]) -> ErrorT:
    """Return one error with the faults of all, each once; its class is that of the first, the gravest, and so is what it keeps.

    >>> joined = join_errors([ModelRefused(Fault("a")), DataMismatch(Fault("b"), Fault("a"))])
    >>> joined.code, [fault.what for fault in joined.faults]
    ('model_refused', ['a', 'b'])
    """
    joined = type(errors[0])(*dict.fromkeys(fault for error in errors for fault in error.faults))
    if isinstance(joined, UnsupportedOperator) and isinstance(errors[0], UnsupportedOperator):
        joined.partial = errors[0].partial
    return joined
