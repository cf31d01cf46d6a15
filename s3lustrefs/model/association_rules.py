"""The rules associations must keep, as pure functions: each answers with the defect in words, or None.

Configuration and the control API ask the same questions, so that a rule has one wording.
Source: FSx for Lustre User Guide, "Linking your file system to an Amazon S3 bucket"; fsx-spec section 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from typing import Protocol

from s3lustrefs.model.association import MAX_ASSOCIATIONS, MAX_KEY_BYTES, Endpoint, paths_overlap

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


class Linked(Protocol):
    """What of an association the rules look at; configured and existing ones both have it."""

    @property
    def file_system_path(self) -> str: ...
    @property
    def bucket(self) -> str: ...
    @property
    def prefix(self) -> str: ...
    @property
    def export_prefix(self) -> str: ...
    @property
    def endpoint(self) -> Endpoint: ...


def split_repository_path(given: str) -> tuple[str, str] | str:
    """`s3://bucket[/prefix]` as (bucket, prefix), the prefix empty or with its trailing slash; a str is the defect."""
    if not given.startswith("s3://"):
        return f"{given!r} is not of the form s3://BUCKET[/PREFIX]"
    bucket, _, prefix = given.removeprefix("s3://").partition("/")
    if not bucket:
        return f"{given!r} names no bucket; it must be s3://BUCKET[/PREFIX]"
    if not _BUCKET.fullmatch(bucket):
        return f"{bucket!r} in {given!r} cannot be a bucket name (3 to 255 letters, digits, '.', '-', '_')"
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    if "\0" in prefix or len(prefix.encode()) >= MAX_KEY_BYTES:
        return f"the prefix of {given!r} leaves no room for keys (at most {MAX_KEY_BYTES} bytes, no NUL)"
    return bucket, prefix


def normalise_file_system_path(given: str) -> str:
    """The path without a trailing slash, save for `/` itself."""
    return given.rstrip("/") or "/"


def file_system_path_defect(given: str) -> str | None:
    """Why this cannot be the linked directory of an association, or None."""
    if not given.startswith("/"):
        return f"file_system_path {given!r} is not absolute; write for example '/results'"
    if "\0" in given:
        return f"file_system_path {given!r} contains a NUL byte"
    for part in given.strip("/").split("/") if given.strip("/") else ():
        if part in ("", ".", ".."):
            return f"file_system_path {given!r} has an empty, '.' or '..' component"
        if len(part.encode()) > 255:
            return f"file_system_path {given!r} has a component of over 255 bytes"
    return None


def same_bucket(a: Linked, b: Linked) -> bool:
    """One bucket name on two endpoints is two buckets."""
    return a.bucket == b.bucket and a.endpoint.endpoint_url == b.endpoint.endpoint_url


def describe(linked: Linked) -> str:
    return f"{linked.file_system_path} (s3://{linked.bucket}/{linked.prefix})"


def conflict(new: Linked, existing: Linked) -> str | None:
    """Why these two cannot stand side by side, or None."""
    pair = f"{describe(new)} and {describe(existing)}"
    if "/" in (new.file_system_path, existing.file_system_path):
        return f"associations {pair}: '/' can only be linked alone"
    if paths_overlap(new.file_system_path, existing.file_system_path):
        return f"associations {pair}: one directory contains the other"
    if same_bucket(new, existing):
        for one, other in product(_prefixes(new), _prefixes(existing)):
            if one.startswith(other) or other.startswith(one):
                return f"associations {pair}: one prefix contains the other"
    return None


def _prefixes(linked: Linked) -> set[str]:
    return {linked.prefix, linked.export_prefix or linked.prefix}


def export_path_defect(given: str, bucket: str, prefix: str) -> str | None:
    """Why what is imported from a bucket's prefix cannot be exported to another path, or None."""
    split = split_repository_path(given)
    if isinstance(split, str):
        return split
    if split[0] != bucket:
        return f"{given} must be in the bucket that is imported, s3://{bucket}"
    if prefix != split[1] and prefix.startswith(split[1]):
        return f"{given} contains what is imported, s3://{bucket}/{prefix}: files made here could overwrite that"
    return None


def export_prefix_of(given: str, prefix: str) -> str:
    """Of a path without defect: the prefix to export to, empty where that is the imported one."""
    found = given.removeprefix("s3://").partition("/")[2]
    found += "/" if found and not found.endswith("/") else ""
    return "" if found == prefix else found


def addition_defect(new: Linked, existing: Iterable[Linked]) -> str | None:
    """Why `new` cannot be added beside `existing`, or None."""
    others = list(existing)
    if len(others) >= MAX_ASSOCIATIONS:
        return f"association {describe(new)}: a file system has at most {MAX_ASSOCIATIONS} associations"
    return next((defect for other in others if (defect := conflict(new, other))), None)
