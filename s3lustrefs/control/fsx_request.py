"""What all FSx operations share: refusals, pages, fingerprints of requests, and the ARNs of one file system."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from s3lustrefs.control.faults import Fault
from s3lustrefs.errors import ControlFault
from s3lustrefs.model.file_system import Asked, FileSystemRecord

PARTITION = "aws"
ACCOUNT = "000000000000"
"""There are no accounts here; FSx's formats want twelve digits."""
TOKEN = "ClientRequestToken"
MESSAGE_CHARACTERS = 256
_RESERVED_TAGS = "aws:"
_ALWAYS_POSSIBLE = frozenset({"UnsupportedOperation", "InternalServerError"})
"""Faults that every operation may answer, whether or not FSx's description lists them for it."""

Json = dict[str, Any]
Item = TypeVar("Item")


def refused(fault: str, message: str, **members: str) -> ControlFault:
    """To be raised. Texts of FSx have at most 256 characters."""
    return ControlFault(message[:MESSAGE_CHARACTERS], fault=fault, members=members)


def fingerprints(request: Mapping[str, Any]) -> dict[str, str]:
    """One per parameter, without the token itself: equal requests have equal ones, and a differing parameter can be named."""
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
        for name, value in request.items()
        if name != TOKEN
    }


def wanted_tags(given: Sequence[Json]) -> dict[str, str]:
    """The `Tags` of a request. Raises: ControlFault."""
    tags = {tag["Key"]: tag["Value"] for tag in given}
    if len(tags) != len(given):
        raise refused("BadRequest", "Tags: a key is given more than once")
    for key in tags:
        if key.lower().startswith(_RESERVED_TAGS):
            raise refused("BadRequest", f"Tags: keys that begin with {_RESERVED_TAGS} are reserved")
    return tags


def without_nulls(value: Any) -> Any:
    """A member that is null counts as absent."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def refuse_another_request(known: Asked, asked: Asked) -> None:
    """Raises: ControlFault when a token that was used comes with another request."""
    if known.operation != asked.operation:
        message = f"{TOKEN} was used for {known.operation}"
        raise refused("IncompatibleParameterError", message, Parameter=TOKEN)
    for name in sorted(known.parameters.keys() | asked.parameters.keys()):
        if known.parameters.get(name) != asked.parameters.get(name):
            message = f"{TOKEN} was used for a request with another {name}"
            raise refused("IncompatibleParameterError", message, Parameter=name)


def documented(fault: Fault, faults: frozenset[str]) -> ControlFault:
    """The same fault, under a name that clients of this operation know."""
    known = faults | _ALWAYS_POSSIBLE
    name = fault.name if fault.name in known else "BadRequest" if fault.status < 500 else "InternalServerError"
    return ControlFault(fault.message[:MESSAGE_CHARACTERS], fault=name, members=fault.members)


# --- names of resources ----------------------------------------------------------------------------------------------------


def file_system_arn(record: FileSystemRecord) -> str:
    return _arn(record, f"{'file-cache' if record.is_cache else 'file-system'}/{record.file_system_id}")


def association_arn(record: FileSystemRecord, association_id: str) -> str:
    return _arn(record, f"association/{record.file_system_id}/{association_id}")


def task_arn(record: FileSystemRecord, task_id: str) -> str:
    return _arn(record, f"task/{task_id}")


def _arn(record: FileSystemRecord, resource: str) -> str:
    return f"arn:{PARTITION}:fsx:{record.region}:{ACCOUNT}:{resource}"


# --- pages -----------------------------------------------------------------------------------------------------------------


def page(request: Mapping[str, Any], items: Sequence[Item], name: Callable[[Item], str], most: int) -> tuple[list[Item], Json]:
    """One page of what was asked for, and the `NextToken` member if there is more.

    In the order of unique names, and a token holds the last one shown: items that come or go between two pages neither
    repeat nor hide others. Raises: ControlFault for a token that is not from an answer to the same request.
    """
    last = after(request)
    limit = min(request.get("MaxResults", most), most)
    rest = sorted((item for item in items if name(item) > last), key=name)
    more = {"NextToken": token_after(name(rest[limit - 1]), request)} if len(rest) > limit else {}
    return rest[:limit], more


def after(request: Mapping[str, Any]) -> str:
    """The name that the last page ended with; empty for the first one. Raises: ControlFault, as `page` does."""
    return _read_token(request["NextToken"], _query(request)) if "NextToken" in request else ""


def token_after(last: str, request: Mapping[str, Any]) -> str:
    """What asks for the page that follows `last`."""
    return _token(last, _query(request))


def _query(request: Mapping[str, Any]) -> dict[str, str]:
    return fingerprints({key: value for key, value in request.items() if key not in ("NextToken", "MaxResults")})


def _digest(query: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(query, sort_keys=True).encode()).hexdigest()[:16]


def _token(last: str, query: Mapping[str, str]) -> str:
    return base64.b64encode(f"{_digest(query)}{last}".encode()).decode()


def _read_token(token: str, query: Mapping[str, str]) -> str:
    try:
        text = base64.b64decode(token, validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith(_digest(query)):
        raise refused("BadRequest", "NextToken is not from an answer to this request")
    return text.removeprefix(_digest(query))
