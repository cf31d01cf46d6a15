"""The key pair that clients of the TCP listener sign with: made at the first start with one, in AWS's own file format.

`AWS_SHARED_CREDENTIALS_FILE=STATE_DIR/api-credentials` is all that a client needs besides the address. Whoever can read the
file is the owner of the mount: it is 0600 in a 0700 directory, and refused otherwise. To get a new pair delete the file and mount
again.
"""

from __future__ import annotations

import configparser
import secrets
import string
from dataclasses import dataclass, field
from pathlib import Path

from s3lustrefs.durable_files import replace_file
from s3lustrefs.errors import StateDirError

_PROFILE = "default"
_LETTERS = string.ascii_uppercase + "234567"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`access_key` names the pair and is no secret."""

    access_key: str
    secret_key: str = field(repr=False)


def load_or_make(path: Path, region: str) -> KeyPair:
    """Raises: StateDirError when the file is open to others, cannot be read or written, or holds no key pair."""
    try:
        if not path.exists():
            _make(path, region)
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise StateDirError(f"{path} cannot be used: {exc}; delete it to get a new key pair") from exc
    if mode & 0o077:
        raise StateDirError(f"{path} has mode {mode:04o}, so that others may know the key: delete it to get a new one")
    found = configparser.RawConfigParser()
    try:
        found.read_string(text)
        pair = KeyPair(found[_PROFILE]["aws_access_key_id"], found[_PROFILE]["aws_secret_access_key"])
    except (configparser.Error, KeyError) as exc:
        raise StateDirError(f"{path} holds no key pair; delete it to get a new one") from exc
    if not pair.access_key or not pair.secret_key:
        raise StateDirError(f"{path} holds an empty key; delete it to get a new one")
    return pair


def _make(path: Path, region: str) -> None:
    access_key = "S3LUSTRE" + "".join(secrets.choice(_LETTERS) for _ in range(12))
    text = (
        "# Made by s3lustrefs for clients of this file system's FSx API. Whoever has it controls the file system.\n"
        f"[{_PROFILE}]\naws_access_key_id = {access_key}\naws_secret_access_key = {secrets.token_urlsafe(30)}\nregion = {region}\n"
    )
    replace_file(path, text)
