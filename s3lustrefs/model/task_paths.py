"""What the paths of a data repository task mean: directories and files here, or keys in linked prefixes.

Clients write them with and without a leading slash, and AWS's CLI sends the guide's `--paths path1,path2` as one path
(fsx-spec section 17, item 2): such a path is itself if it exists, else the parts between its commas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s3lustrefs.model.association import Association, paths_overlap

_SCHEME = "s3://"


def absolute(path: str) -> str:
    """A path of a task as an absolute path inside the mount: `/` for the mount itself, which an empty one means too."""
    return "/" + path.strip("/")


def readings(path: str) -> list[list[str]]:
    """The ways to read one path, the likeliest first: as it stands, then as several joined by commas."""
    parts = [absolute(part) for part in path.split(",") if part]
    return [[absolute(path)], parts] if len(parts) > 1 else [[absolute(path)]]


def outermost(paths: Iterable[str]) -> list[str]:
    """Paths that are not below another of them, each once, in the order given."""
    given = dict.fromkeys(paths)
    return [path for path in given if not any(directory in given for directory in _above(path))]


def _above(path: str) -> list[str]:
    """The directories that an absolute path lies in."""
    return [path[:at] or "/" for at, sign in enumerate(path) if sign == "/" and path != "/"]


def below(above: str, path: str) -> str:
    """What leads from one absolute path to another that is below it; empty when it is not."""
    base = above.rstrip("/") + "/"
    return path.removeprefix(base) if path.startswith(base) else ""


def reached(associations: Iterable[Association], paths: Sequence[str]) -> list[Association]:
    """Associations that paths of the file system lie in or contain, whichever way they are read; no paths: all."""
    ways = [each for path in paths or ["/"] for way in readings(path) for each in way]
    return [each for each in associations if any(paths_overlap(each.file_system_path, path) for path in ways)]


@dataclass(frozen=True, slots=True)
class Span:
    """What a task imports of one association: everything below `relative` (no slash at the end; empty: all of it)."""

    association: Association
    relative: str

    @property
    def shown(self) -> str:
        return self.association.data_repository_path + self.relative


def split_urls(path: str) -> list[str]:
    """`s3://a/x,s3://b/y` is two."""
    first, *rest = path.split("," + _SCHEME)
    return [first, *(_SCHEME + each for each in rest)]


def spans(associations: Sequence[Association], url: str) -> list[Span]:
    """What an `s3://bucket[/prefix]` means here: a part of an association, or all of those that lie below it. `/`: all there are.

    Empty: it has nothing to do with any association.
    """
    if url.strip("/") == "":
        return [Span(each, "") for each in associations]
    if not url.startswith(_SCHEME):
        return []
    bucket, _, prefix = url.removeprefix(_SCHEME).partition("/")
    wanted = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    found = []
    for each in associations:
        if each.bucket != bucket:
            continue
        if each.prefix.startswith(wanted):
            found.append(Span(each, ""))
        elif wanted.startswith(each.prefix):
            found.append(Span(each, wanted.removeprefix(each.prefix).rstrip("/")))
    return found
