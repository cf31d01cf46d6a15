"""Dispatcher: AWS's JSON 1.1 protocol: which operation a request means, and its result or fault as JSON.

`POST /` with `X-Amz-Target: PREFIX.OPERATION` and a JSON object as body; 200 with a JSON object, or 400/403/500 with
`{"__type": FAULT, "Message": TEXT}`. Source: fsx-spec section 15.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from s3lustrefs.control.faults import Fault, fault_of
from s3lustrefs.log import working_on

Operation = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Service = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""All operations of one prefix: gets the name of the operation, and refuses those that it does not have."""
Answer = tuple[int, bytes]
"""HTTP status and body."""

PREFIX = "S3LustreFS"
CONTENT_TYPE = "application/x-amz-json-1.1"


class Dispatcher:
    """An operation whose name has no prefix of its own belongs to `S3LustreFS`."""

    def __init__(self, operations: Mapping[str, Operation], services: Mapping[str, Service] = MappingProxyType({})) -> None:
        self._operations = {name if "." in name else f"{PREFIX}.{name}": call for name, call in operations.items()}
        self._services = dict(services)

    async def answer(self, method: str, target: str, body: bytes) -> Answer:
        operation = self._find(target)
        if method != "POST" or operation is None:
            return faulty(Fault(400, "UnknownOperationException", f"unknown operation {target or method!r}"))
        try:
            arguments = json.loads(body or b"{}", parse_constant=_no_number)
        except (ValueError, RecursionError) as exc:
            return faulty(Fault(400, "SerializationException", f"the request is not JSON: {exc}"))
        if not isinstance(arguments, dict):
            return faulty(Fault(400, "SerializationException", "the request is not a JSON object"))
        with working_on(op=target):
            try:
                return 200, json.dumps(await operation(arguments)).encode()
            except Exception as exc:  # noqa: BLE001 - the table is where every exception becomes an answer
                return faulty(fault_of(exc, target))

    def _find(self, target: str) -> Operation | None:
        if target in self._operations:
            return self._operations[target]
        prefix, _, name = target.partition(".")
        service = self._services.get(prefix)
        return None if service is None else lambda arguments: service(name, arguments)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def faulty(fault: Fault) -> Answer:
    return fault.status, json.dumps({"__type": fault.name, "Message": fault.message, **fault.members}).encode()
