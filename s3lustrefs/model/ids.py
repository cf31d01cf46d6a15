"""The numbers and names that identify things, each with its own type."""

from __future__ import annotations

from typing import NewType

Ino = NewType("Ino", int)
"""Inode number: 64 bits, handed out once, never reused, so that generations stay 0."""

FileHandleId = NewType("FileHandleId", int)
"""One open(); never an inode number."""

AssocId = NewType("AssocId", int)
"""Local number of an association (1..65535), never reused; its public name is `dra-...`."""

ContentVersion = NewType("ContentVersion", int)
"""Which bytes a file has: moves when the bucket replaces the content, not on local writes."""

ROOT_INO = Ino(1)
NO_INO = Ino(0)
NO_ASSOC = AssocId(0)
