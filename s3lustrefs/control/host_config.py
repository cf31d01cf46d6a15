"""The TOML file of a file system that the API makes: what mounts it, to be edited like any other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s3lustrefs.config import load
from s3lustrefs.errors import ConfigError
from s3lustrefs.model.association import AssociationSettings
from s3lustrefs.model.file_system import FileSystemRecord


def config_text(record: FileSystemRecord, state_dir: Path, defaults: Mapping[str, Any], links: Sequence[Mapping[str, Any]]) -> str:
    """`defaults` are mount options as -o takes them; `links` the keys of each [[dra]]."""
    top: dict[str, Any] = {"state_dir": str(state_dir), **defaults}
    if capacity := record.settings.get("StorageCapacity"):
        top.setdefault("cache_size", f"{capacity}GiB")
    lines = [f"# {record.file_system_id}, made by `s3lustrefs api`.", *_lines(top)]
    for link in links:
        lines += ["", "[[dra]]", *_lines(link)]
    return "\n".join(lines) + "\n"


def settings_in(text: str) -> tuple[AssociationSettings, ...]:
    """The associations of a file with this text, as its mount will read them. Raises: ConfigError."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            return load(file.name, "", mountpoint="/").dras
        except ConfigError as exc:
            raise ConfigError(str(exc).removeprefix(f"{file.name}: ")) from exc


def _lines(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in keys.items()]


def _value(value: Any) -> str:
    # JSON's strings, numbers, booleans and lists of strings are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
