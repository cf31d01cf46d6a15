"""Requests made from the shapes of FSx's own description: mostly as described, sometimes next to it."""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from tests.unit.control.fsx_scene import MODEL, ONE, TWO


@functools.cache
def of(operation: str) -> st.SearchStrategy[dict[str, Any]]:
    """Requests for an operation, in each of which something may be wrong."""
    return _values(MODEL[operation]._model.input_shape).filter(lambda value: isinstance(value, dict))


def placed(value: Any, names: Mapping[str, str]) -> Any:
    """With the names of what is really there."""
    if isinstance(value, str):
        return functools.reduce(lambda text, name: text.replace(name, names[name]), names, value)
    if isinstance(value, dict):
        return {key: placed(each, names) for key, each in value.items()}
    return [placed(each, names) for each in value] if isinstance(value, list) else value


_WILD: st.SearchStrategy[Any] = st.sampled_from([None, True, -1, 2**70, 10**400, 0.5, float("inf"), "x", [], {}, {"Events": []}])
_MADE: dict[str, st.SearchStrategy[Any]] = {}


def _values(shape: Any) -> st.SearchStrategy[Any]:
    """Mostly what the shape describes, sometimes next to it."""
    if shape.name not in _MADE:
        right = _right(shape)
        _MADE[shape.name] = st.integers(0, 9).flatmap(lambda n: _WILD if n == 9 else right)
    return _MADE[shape.name]


def _right(shape: Any) -> st.SearchStrategy[Any]:
    rules = shape.metadata
    least, most = rules.get("min", 0), rules.get("max")
    if shape.type_name == "structure":
        required = {name: _values(shape.members[name]) for name in shape.required_members}
        others = {name: _values(member) for name, member in shape.members.items() if name not in required}
        return st.fixed_dictionaries(required, optional=others)
    if shape.type_name == "list":
        return st.lists(_values(shape.member), min_size=min(least, 2), max_size=3)
    if shape.type_name == "boolean":
        return st.booleans()
    if shape.type_name in ("integer", "long"):
        if shape.name in _NUMBERS:
            return st.sampled_from(_NUMBERS[shape.name])
        return st.integers(least, most if most is not None else 2**31)
    if shape.type_name == "string":
        return _texts(shape.name, rules)
    return st.floats(0, 2e9)


_KNOWN: dict[str, list[str]] = {
    "ArchivePath": ["s3://BUCKET/p", "s3://BUCKET", "s3://no-such-bucket-here", "nfs://filer/x"],
    "ClientRequestToken": ["t1", "t2", "t3"],
    "DailyTime": ["05:00"],
    "DataRepositoryAssociationId": [ONE, TWO, "DRA", "dra-00000000000000009"],
    "DataRepositoryTaskFilterValue": ["OURS", "EXECUTING", "DRA"],
    "FileCacheId": ["CACHE", "fc-00000000000000009"],
    "FileSystemId": ["OURS", "OTHER", "fs-00000000000000009"],
    "FileSystemTypeVersion": ["2.15", "2.12", "2.10"],
    "FilterValue": ["OURS", "OTHER", "S3", "NFS"],
    "LustreRootSquash": ["0:0", "1:1"],
    "Namespace": ["/", "/a", "/a/b", "/c"],
    "ResourceARN": ["ARN", "ARN/x", "arn:aws:fsx:eu-central-1:000000000000:association/a/" + ONE],
    "SubnetId": ["subnet-0123456789abcdef0"],
    "TaskId": ["task-00000000000000009"],
    "WeeklyTime": ["1:05:30"],
}
"""By shape. Words in capitals stand for what `placed` puts there."""
_NUMBERS = {"StorageCapacity": [1200, 2400, 7200], "PerUnitStorageThroughput": [50, 125, 1000], "MetadataStorageCapacity": [2400]}


def _texts(name: str, rules: Any) -> st.SearchStrategy[str]:
    if "enum" in rules:
        return st.sampled_from(rules["enum"])
    if name in _KNOWN:
        return st.sampled_from(_KNOWN[name])
    return st.text(
        st.sampled_from(string.ascii_letters + "0-_.:/@ äé€𝄞\u2028\n\0"), min_size=min(rules.get("min", 0), 40), max_size=60
    )
