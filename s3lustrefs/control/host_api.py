"""HostApi: the FSx API of all file systems of a host. Finds out whose a request is, hands it over, and joins the answers.

Each file system answers for itself; see `host_owners`. Nothing that it says is kept here but for one use: a daemon that hangs
is still shown, as it described itself last and with the reason.

Pages: every file system sorts by unique names and goes on after the last one shown, so the page that follows a name is
made of the pages that follow it in each of them. No state is kept between two pages.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s3lustrefs.control.faults import fault_of
from s3lustrefs.control.fsx_model import FsxModel
from s3lustrefs.control.fsx_request import (
    MESSAGE_CHARACTERS,
    TOKEN,
    Json,
    after,
    documented,
    fingerprints,
    refused,
    token_after,
    without_nulls,
)
from s3lustrefs.control.host_lives import Lives
from s3lustrefs.control.host_owners import Owner, Owners, Unanswered, gathered
from s3lustrefs.errors import ControlFault
from s3lustrefs.model.file_system import Asked

_IS_FILTER_OF = {"file-system-id": "FileSystemNotFound", "file-cache-id": "FileSystemNotFound"}


@dataclass(frozen=True, slots=True)
class Listing:
    """A question that several file systems may have to answer."""

    members: str
    name: str
    """Member of each item that is its unique name, and that pages are sorted by."""
    ids: str
    """Member of the request that names items."""
    most: int
    """Items on a page at most."""
    not_found: str


LISTINGS: Mapping[str, Listing] = {
    "DescribeFileSystems": Listing("FileSystems", "FileSystemId", "FileSystemIds", 50, "FileSystemNotFound"),
    "DescribeFileCaches": Listing("FileCaches", "FileCacheId", "FileCacheIds", 50, "FileCacheNotFound"),
    "DescribeDataRepositoryAssociations": Listing(
        "Associations", "AssociationId", "AssociationIds", 25, "DataRepositoryAssociationNotFound"
    ),
    "DescribeDataRepositoryTasks": Listing("DataRepositoryTasks", "TaskId", "TaskIds", 50, "DataRepositoryTaskNotFound"),
}
_KINDS = {"DescribeFileSystems": "fs", "DescribeFileCaches": "fc"}
"""How ids of what they list begin."""
OF_FILE_SYSTEM: Mapping[str, str] = {
    "UpdateFileSystem": "FileSystemId",
    "CreateDataRepositoryAssociation": "FileSystemId",
    "CreateDataRepositoryTask": "FileSystemId",
    "UpdateFileCache": "FileCacheId",
}
"""Operations on what a file system or cache has, and the member that names it."""
OF_ITEM: Mapping[str, tuple[str, str]] = {
    "UpdateDataRepositoryAssociation": ("AssociationId", "DescribeDataRepositoryAssociations"),
    "DeleteDataRepositoryAssociation": ("AssociationId", "DescribeDataRepositoryAssociations"),
    "CancelDataRepositoryTask": ("TaskId", "DescribeDataRepositoryTasks"),
}
"""Operations on an item, the member that names it, and the question that finds it."""
OF_RESOURCE = ("TagResource", "UntagResource", "ListTagsForResource")


class HostApi:
    """See the module docstring."""

    def __init__(self, owners: Owners, lives: Lives) -> None:
        self._owners = owners
        self._lives = lives
        self._model = FsxModel()
        self._here: Mapping[str, Callable[[Json, Asked | None], Awaitable[Json]]] = {
            "CreateFileSystem": lives.create,
            "DeleteFileSystem": lives.delete,
            "CreateFileCache": lives.create_cache,
            "DeleteFileCache": lives.delete_cache,
        }

    async def call(self, name: str, request: Json) -> Json:
        """Raises: ControlFault with a fault that FSx's description has for this operation."""
        operation = await self._model.operation(name)
        if operation is None:
            raise refused("UnknownOperationException", f"FSx has no operation {name!r}")
        if not (name in LISTINGS or name in OF_FILE_SYSTEM or name in OF_ITEM or name in OF_RESOURCE or name in self._here):
            raise refused("UnsupportedOperation", f"{name} has no meaning for an s3lustrefs file system")
        if defect := operation.input_defect(request):
            raise refused("BadRequest", defect)
        request = without_nulls(request)
        try:
            return await self._call(name, request)
        except Exception as exc:
            raise documented(fault_of(exc, name), operation.faults) from exc

    async def _call(self, name: str, request: Json) -> Json:
        if name in self._here:
            token = request.get(TOKEN)
            return await self._here[name](request, Asked(token, name, fingerprints(request), time.time_ns()) if token else None)
        if name in LISTINGS:
            return await self._listed(name, LISTINGS[name], request)
        if name in OF_FILE_SYSTEM:
            owner = await self._owner(request[OF_FILE_SYSTEM[name]])
        elif name in OF_ITEM:
            member, question = OF_ITEM[name]
            owner = await self._holder(request[member], question)
        else:
            owner = await self._owner_of_resource(request["ResourceARN"])
        return await self._owners.ask(owner, name, request, is_change=name != "ListTagsForResource")

    # --- whose it is ---------------------------------------------------------------------------------------------------------

    async def _owner(self, resource_id: str) -> Owner:
        """Raises: ControlFault."""
        await self._lives.wait_born(resource_id)
        owners, silent = await self._owners.all()
        for owner in owners:
            if owner.resource_id == resource_id:
                return owner
        if silent:
            raise silent[0]
        kind = "FileCacheNotFound" if resource_id.startswith("fc-") else "FileSystemNotFound"
        raise refused(kind, f"there is no {'file cache' if kind[4] == 'C' else 'file system'} {resource_id} on this host")

    async def _holder(self, name: str, question: str) -> Owner:
        owners, silent = await self._owners.all()
        listing = LISTINGS[question]
        holder = await self._owners.holder(name, question, {listing.ids: [name]}, owners)
        if holder is None:
            raise silent[0] if silent else refused(listing.not_found, f"there is no {name} on this host")
        return holder

    async def _owner_of_resource(self, arn: str) -> Owner:
        _, _, resource = arn.partition(":fsx:")
        parts = resource.split(":", 2)[-1].replace("task:", "task/").split("/")
        try:
            if parts[0] in ("file-system", "file-cache", "association") and len(parts) > 1:
                return await self._owner(parts[1])
            if parts[0] == "task" and len(parts) > 1:
                return await self._holder(parts[1], "DescribeDataRepositoryTasks")
        except Unanswered:
            raise
        except ControlFault as exc:
            raise refused("ResourceNotFound", f"there is no resource {arn} here", ResourceARN=arn) from exc
        raise refused("ResourceNotFound", f"there is no resource {arn} here", ResourceARN=arn)

    # --- answers of several -----------------------------------------------------------------------------------------------------

    async def _listed(self, name: str, listing: Listing, request: Json) -> Json:
        last, limit = after(request), min(request.get("MaxResults", listing.most), listing.most)
        parts = await self._parts(name, listing, request)
        # Now: one that is made while the others are asked was not among those to ask.
        items: list[Json] = self._lives.passing(_KINDS[name], request.get(listing.ids, ()), last) if name in _KINDS else []
        more = False
        requests = [_following(part, last) for _, part in parts]
        answers = await self._answers(name, [owner for owner, _ in parts], requests)
        for (owner, _), answer in zip(parts, answers, strict=True):
            found, goes_on = self._items(listing, owner, answer, answers)
            items += found
            more = more or goes_on
        items.sort(key=lambda item: str(item[listing.name]))
        shown = items[:limit]
        more = more or len(items) > limit
        return {listing.members: shown, **({"NextToken": token_after(shown[-1][listing.name], request)} if more and shown else {})}

    async def _answers(self, name: str, owners: Sequence[Owner], requests: Sequence[Json]) -> list[Json | ControlFault]:
        def deed(owner: Owner, request: Json) -> Callable[[], Awaitable[Json]]:
            return lambda: self._owners.ask(owner, name, request, is_change=False)

        return await gathered([deed(owner, request) for owner, request in zip(owners, requests, strict=True)])

    def _items(
        self, listing: Listing, owner: Owner, answer: Json | ControlFault, answers: Sequence[Json | ControlFault]
    ) -> tuple[list[Json], bool]:
        """What one of them adds, and whether it has more. Raises: ControlFault."""
        if isinstance(answer, Unanswered):
            if listing.members != "FileSystems":
                raise answer
            failure = {"Message": str(answer)[:MESSAGE_CHARACTERS]}
            return [{**owner.about, "Lifecycle": "MISCONFIGURED_UNAVAILABLE", "FailureDetails": failure}], False
        if isinstance(answer, ControlFault):
            # What one does not have another may have; and one may have been removed meanwhile.
            if answer.fault.endswith("NotFound") and (not owner.place.exists() or any(isinstance(each, dict) for each in answers)):
                return [], False
            raise answer
        found: list[Json] = answer[listing.members]
        if listing.members == "FileSystems" and found:
            self._owners.heard(owner, found[0])
        return found, "NextToken" in answer

    async def _parts(self, name: str, listing: Listing, request: Json) -> list[tuple[Owner, Json]]:
        """Whom to ask, and what. Raises: ControlFault."""
        ids: list[str] = list(dict.fromkeys(request.get(listing.ids, ())))
        rest = {key: value for key, value in request.items() if key != "NextToken"}
        if name in _KINDS:
            return await self._resources(name, ids, rest, listing)
        if not ids:
            return await self._by_filters(rest)
        wanted: dict[str, list[str]] = {}
        holders: dict[str, Owner] = {}
        for each in ids:
            holder = await self._holder(each, name)
            holders[holder.resource_id] = holder
            wanted.setdefault(holder.resource_id, []).append(each)
        return [(holder, {**rest, listing.ids: wanted[key]}) for key, holder in holders.items()]

    async def _resources(self, name: str, ids: Sequence[str], rest: Json, listing: Listing) -> list[tuple[Owner, Json]]:
        owners, silent = await self._owners.all()
        chosen = [owner for owner in owners if owner.resource_id.startswith(f"{_KINDS[name]}-")]
        passing = self._lives.passing_ids()
        rest = {key: value for key, value in rest.items() if key != listing.ids}
        if ids:
            known = {owner.resource_id for owner in chosen} | passing
            for each in ids:
                if each not in known:
                    raise silent[0] if silent else refused(listing.not_found, f"there is no {each} on this host")
            chosen = [owner for owner in chosen if owner.resource_id in ids]
        elif silent:
            raise silent[0]
        return [(owner, rest) for owner in chosen if owner.resource_id not in passing]

    async def _by_filters(self, rest: Json) -> list[tuple[Owner, Json]]:
        """Filters that name file systems say whom to ask; each is asked in its own name."""
        owners, silent = await self._owners.all()
        known = {owner.resource_id: owner for owner in owners} | dict.fromkeys(self._lives.passing_ids())
        chosen = list(owners)
        for condition in rest.get("Filters", ()):
            if condition.get("Name") in _IS_FILTER_OF and condition.get("Values"):
                values = condition["Values"]
                for value in values:
                    if value not in known:
                        raise silent[0] if silent else refused("FileSystemNotFound", f"there is no {value} on this host")
                chosen = [owner for owner in chosen if owner.resource_id in values]
            elif condition.get("Name") is None or not condition.get("Values"):
                raise refused("BadRequest", "Filters: each needs a Name and Values")
        if len(chosen) == len(owners) and silent:
            raise silent[0]
        return [(owner, _in_the_name_of(owner, rest)) for owner in chosen]


def _in_the_name_of(owner: Owner, request: Json) -> Json:
    if "Filters" not in request:
        return request
    narrowed: list[Any] = [
        {**each, "Values": [owner.resource_id]} if each.get("Name") in _IS_FILTER_OF else each for each in request["Filters"]
    ]
    return {**request, "Filters": narrowed}


def _following(request: Json, last: str) -> Json:
    return {**request, "NextToken": token_after(last, request)} if last else request
