"""The one table exception → fault on the wire.

A row stands for its class and every class derived from it that has no row of its own. Faults other than
InternalServerError are answers: their reason goes to the client and not into the log.
Source: fsx-spec section 15; Amazon FSx API Reference, "Common Errors".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from s3lustrefs import errors

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """What the client sees: HTTP status, `__type` and `Message`."""

    status: int
    name: str
    message: str
    members: Mapping[str, str] = field(default_factory=dict)
    """What the fault carries besides, such as `Parameter`."""


TABLE: dict[type[BaseException], tuple[int, str]] = {
    errors.UsageError: (400, "BadRequest"),
    errors.MetadataError: (400, "BadRequest"),
    errors.NotFound: (400, "PathNotFound"),
    errors.StaleInode: (400, "PathNotFound"),
    errors.NotInRepository: (400, "DataRepositoryAssociationNotFound"),
    errors.TaskFailed: (400, "BadRequest"),
    errors.RepositoryError: (400, "BadRequest"),
    errors.RepositoryUnavailable: (500, "ServiceUnavailable"),
    errors.StorageError: (500, "InternalServerError"),
    errors.TableCorrupt: (500, "InternalServerError"),
}

STATUS = {
    "InternalServerError": 500,
    "IncompleteSignature": 403,
    "InvalidSignatureException": 403,
    "MissingAuthenticationToken": 403,
    "UnrecognizedClientException": 403,
}
"""HTTP status of faults raised by their name, where it is not 400."""


def fault_of(exc: Exception, operation: str) -> Fault:
    """The fault of an exception; an unknown one is logged with its traceback, here and nowhere else."""
    if isinstance(exc, errors.ControlFault):
        return Fault(STATUS.get(exc.fault, 400), exc.fault, str(exc), exc.members)
    for ancestor in type(exc).__mro__:
        if ancestor in TABLE:
            status, name = TABLE[ancestor]
            if status >= 500:
                log.warning("control failed operation=%s reason=%s", operation, exc)
            return Fault(status, name, str(exc))
    log.error("control failed operation=%s", operation, exc_info=exc)
    return Fault(500, "InternalServerError", f"{type(exc).__name__}: {exc} (a defect; daemon.log has the traceback)")
