"""ControlVerbs: the engine's verbs about what the FSx API alone knows."""

from __future__ import annotations

from collections.abc import Mapping

from s3lustrefs.meta import control_records
from s3lustrefs.meta.lmdb_core import EngineCore
from s3lustrefs.model.file_system import Asked, FileSystemRecord


class ControlVerbs(EngineCore):
    """See `engine_control.ControlEngine` for the contract."""

    def file_system(self) -> FileSystemRecord | None:
        return control_records.file_system(self._txn())

    async def update_file_system(self, record: FileSystemRecord, asked: Asked | None = None) -> None:
        with self._store.begin() as txn:
            control_records.store_file_system(txn, record)
            control_records.remember(txn, asked)

    def tags(self, resource: str) -> dict[str, str]:
        return control_records.tags(self._txn(), resource)

    async def set_tags(self, resource: str, tags: Mapping[str, str]) -> None:
        with self._store.begin() as txn:
            control_records.store_tags(txn, resource, tags)

    def find_asked(self, token: str) -> Asked | None:
        return control_records.find_asked(self._txn(), token)
