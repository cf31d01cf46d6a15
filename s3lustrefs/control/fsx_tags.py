"""FSx's operations on tags, of the file system, its associations and its tasks."""

from __future__ import annotations

from s3lustrefs.control.fsx_associations import Associations
from s3lustrefs.control.fsx_filesystems import FileSystems
from s3lustrefs.control.fsx_request import Json, association_arn, file_system_arn, page, refused, task_arn, wanted_tags
from s3lustrefs.errors import ControlFault
from s3lustrefs.meta.engine_control import ControlEngine
from s3lustrefs.model.file_system import Asked
from s3lustrefs.movers.tasks import Tasks

_MOST = 50


class Tags:
    """Kept by the id of the resource."""

    def __init__(self, engine: ControlEngine, file_systems: FileSystems, associations: Associations, queue: Tasks) -> None:
        self._engine = engine
        self._file_systems = file_systems
        self._associations = associations
        self._queue = queue

    async def tag(self, request: Json, asked: Asked | None) -> Json:
        resource = self._resource(request["ResourceARN"])
        tags = {**self._engine.tags(resource), **wanted_tags(request["Tags"])}
        if len(tags) > _MOST:
            raise refused("BadRequest", f"Tags: a resource has at most {_MOST}, this one would have {len(tags)}")
        await self._engine.set_tags(resource, tags)
        return {}

    async def untag(self, request: Json, asked: Asked | None) -> Json:
        resource = self._resource(request["ResourceARN"])
        tags = self._engine.tags(resource)
        await self._engine.set_tags(resource, {key: value for key, value in tags.items() if key not in request["TagKeys"]})
        return {}

    async def tagged(self, request: Json) -> Json:
        return {}

    async def list_(self, request: Json) -> Json:
        tags = list(self._engine.tags(self._resource(request["ResourceARN"])).items())
        # By number: a key would not fit into a token.
        shown, more = page(request, list(enumerate(tags)), lambda item: f"{item[0]:03}", _MOST)
        return {"Tags": [{"Key": key, "Value": value} for _, (key, value) in shown], **more}

    def _resource(self, arn: str) -> str:
        """The id of what an ARN names; some samples of FSx's guide have `task:` for `task/`. Raises: ControlFault."""
        record = self._file_systems.record
        if arn == file_system_arn(record):
            return record.file_system_id
        resource = arn.rpartition("/")[2].rpartition(":")[2]
        if arn.replace(":task:", ":task/") == task_arn(record, resource) and self._queue.find(resource) is not None:
            return resource
        try:
            if arn == association_arn(record, self._associations.find(resource).association_id):
                return resource
        except ControlFault:
            pass
        raise refused("ResourceNotFound", f"there is no resource {arn} here", ResourceARN=arn)
