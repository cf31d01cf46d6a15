"""FsxModel: what botocore's own description of FSx says a request and an answer may hold.

Loaded once, when the first request comes, in a thread: 70 ms and 4 MB beside the botocore that the daemon has anyway (the prose
of the description is dropped). Every rule is checked that the description states, also those that no client checks: patterns,
enumerations, upper limits. What is wrong is one sentence that names the member.

The patterns are Java's and meant for whole values. Where Python reads them otherwise they are translated: `\\p{..}`, ASCII digits,
a `$` that would let a line break pass.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import botocore.loaders
import botocore.model
import trio

SERVICE = "fsx"
TARGET_PREFIX = "AWSSimbaAPIService_v20180301"

_SEPARATORS = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode category Z. Of the other categories in use, `\\w` is exactly L, N and the underscore."""
_SHOWN = 40
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "structure": (dict,),
    "list": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "timestamp": (int, float),
    "double": (int, float),
}


class Operation:
    """One operation of FSx, as described."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.faults: frozenset[str] = frozenset(shape.name for shape in model.error_shapes)

    def input_defect(self, request: Mapping[str, Any]) -> str | None:
        """The first thing wrong with a request, or None."""
        return next(_defects(self._model.input_shape, request, ""), None)

    def output_defect(self, answer: Mapping[str, Any]) -> str | None:
        """The first thing wrong with an answer of ours, or None."""
        return next(_defects(self._model.output_shape, answer, ""), None)


class FsxModel:
    """The operations by name; loads itself when first asked."""

    def __init__(self) -> None:
        self._loading = trio.Lock()
        self._operations: dict[str, Operation] = {}

    async def operation(self, name: str) -> Operation | None:
        """None: FSx has no such operation."""
        if not self._operations:
            async with self._loading:
                self._operations = self._operations or await trio.to_thread.run_sync(load)
        return self._operations.get(name)


@functools.cache
def load() -> dict[str, Operation]:
    """Read the description, once in a process. Blocks."""
    loader = botocore.loaders.create_loader()
    description = _without_prose(loader.load_service_model(SERVICE, "service-2"))
    model = botocore.model.ServiceModel(description, SERVICE)
    return {name: Operation(model.operation_model(name)) for name in model.operation_names}


def _without_prose(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_prose(v) for k, v in value.items() if k != "documentation" or not isinstance(v, str)}
    return [_without_prose(each) for each in value] if isinstance(value, list) else value


# --- values ----------------------------------------------------------------------------------------------------------------


def _is_a(type_name: str, value: object) -> bool:
    expected = _JSON_TYPES[type_name]
    return isinstance(value, expected) and (bool in expected or not isinstance(value, bool))


def _defects(shape: Any, value: Any, name: str) -> Iterator[str]:
    if not _is_a(shape.type_name, value):
        yield f"{name or 'the request'} must be of type {shape.type_name}"
    elif shape.type_name == "structure":
        yield from _structure_defects(shape, value, name)
    elif shape.type_name == "list":
        yield from _size_defects(shape, len(value), f"{name} has {len(value)} items", "items")
        for number, each in enumerate(value):
            yield from _defects(shape.member, each, f"{name}[{number}]")
    elif shape.type_name == "string":
        yield from _text_defects(shape, value, name)
    elif shape.type_name != "boolean":
        yield from _number_defects(shape, value, name)


def _structure_defects(shape: Any, value: Mapping[str, Any], name: str) -> Iterator[str]:
    for required in shape.required_members:
        if value.get(required) is None:
            yield f"{_member(name, required)} is required"
    for key, each in value.items():
        if key not in shape.members:
            yield f"{_member(name, _shown(key))} is not a member of this request"
        elif each is not None:
            yield from _defects(shape.members[key], each, _member(name, key))


def _text_defects(shape: Any, value: str, name: str) -> Iterator[str]:
    rules = shape.metadata
    shown = name if rules.get("sensitive") else f"{name} {_shown(value)!r}"
    try:
        value.encode()
    except UnicodeEncodeError:
        yield f"{name} is not valid Unicode"
        return
    yield from _size_defects(shape, len(value), f"{name} has {len(value)} characters", "characters")
    if "enum" in rules and value not in rules["enum"]:
        yield f"{shown} is not one of {', '.join(rules['enum'])}"
    # No pattern of FSx lets a line break pass, and those that would take long to find out are fast without one.
    if "pattern" in rules and ("\n" in value or not _compiled(rules["pattern"]).fullmatch(value)):
        yield f"{shown} does not match {rules['pattern']}"


def _number_defects(shape: Any, value: float, name: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{name} is not a number"
    elif shape.type_name != "timestamp":
        yield from _size_defects(shape, value, f"{name} is {_shown(str(value))}", "")


def _size_defects(shape: Any, size: float, what: str, unit: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        yield f"{what}, at least {least} {unit}".rstrip()
    elif most is not None and size > most:
        yield f"{what}, at most {most} {unit}".rstrip()


def _member(structure: str, name: str) -> str:
    return f"{structure}.{name}" if structure else name


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    if r"\p{" in pattern:
        translated = pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", "").replace(r"\p{Z}", _SEPARATORS)
        return re.compile(translated)
    return re.compile(pattern.replace("(?i)", ""), re.ASCII | (re.IGNORECASE if "(?i)" in pattern else 0))
