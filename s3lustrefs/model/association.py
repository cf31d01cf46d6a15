"""Association: one directory linked with one S3 prefix (DRA), its policies, and the mapping between paths and keys."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from s3lustrefs.model.ids import NO_ASSOC, AssocId

EVENTS = ("NEW", "CHANGED", "DELETED")
MAX_ASSOCIATIONS = 8
MAX_KEY_BYTES = 1024
MAX_NAME_BYTES = 255
TOO_LONG = f"(at most {MAX_NAME_BYTES})"
"""At the end of what `key_defect` says of a name."""

PosixMetadata = Literal["lazy", "eager", "off"]
OnConflict = Literal["keep-both", "bucket-wins", "file-wins"]
ImportState = Literal["PENDING", "RUNNING", "DONE"]
Lifecycle = Literal["CREATING", "AVAILABLE", "UPDATING", "DELETING", "MISCONFIGURED", "FAILED"]
"""FSx's words; which follows which is in `model.association_lifecycle`."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach the bucket of an association. Never holds a credential: `profile` and `role_arn` only name where to find one."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"


@dataclass(frozen=True, slots=True)
class AssociationSettings:
    """What is asked for when a directory is linked with a prefix.

    `file_system_path` is absolute and has no trailing slash save for `/`; `prefix` is empty or ends in `/`.
    `file_system_path_given` and `data_repository_path_given` are what the client sent, to be echoed back.
    """

    file_system_path: str
    bucket: str
    prefix: str
    file_system_path_given: str = ""
    data_repository_path_given: str = ""
    endpoint: Endpoint = Endpoint()
    auto_import: frozenset[str] = frozenset(EVENTS)
    auto_export: frozenset[str] = frozenset(EVENTS)
    imported_file_chunk_size_mib: int = 1024
    posix_metadata: PosixMetadata = "lazy"
    on_conflict: OnConflict = "keep-both"
    uid: int = 0
    gid: int = 0
    file_mode: int = 0o755
    dir_mode: int = 0o755
    event_queue_url: str | None = None
    """`auto` (None is the same), `create`, `off`, or the URL of an SQS queue: see `movers.event_plan`."""
    import_interval_seconds: float = 300.0
    export_open_after_seconds: float = 0.0
    """How long a file may be held open for writing before it is exported all the same; 0: as long as it likes."""
    export_prefix: str = ""
    """Where objects are written instead of below `prefix`: ends in `/`, and does not contain `prefix`. Nothing below it is
    imported. Empty: a file is exported to the object that it was imported from."""

    @property
    def write_prefix(self) -> str:
        """Below which objects are written and deleted."""
        return self.export_prefix or self.prefix


@dataclass(frozen=True, slots=True)
class Policies:
    """The settings that can be changed while the association is in use."""

    auto_import: frozenset[str]
    auto_export: frozenset[str]
    imported_file_chunk_size_mib: int


@dataclass(frozen=True, slots=True)
class Association(AssociationSettings):
    """One data repository association: the settings, and what became of them."""

    assoc_id: AssocId = NO_ASSOC
    association_id: str = ""
    import_state: ImportState = "PENDING"
    root_ino: int = 0
    capabilities: dict[str, bool | str] | None = None
    """What the endpoint probe found out when the association was made; None: not probed yet."""
    created_ns: int = 0
    """0: made before this was recorded."""
    configured: Policies | None = None
    """What the configuration said at the last mount; None: the same as what holds now."""
    configured_as: str = ""
    """Fingerprint of the configuration's entry for it at the last mount; empty: made by the API."""
    lifecycle: Lifecycle = "AVAILABLE"
    failure: str = ""
    """Why it is MISCONFIGURED or FAILED."""
    asked_ns: int = 0
    """When what it is CREATING, UPDATING or DELETING for was asked for: its place in the queue."""
    delete_data: bool = False
    """Of a deletion: the local tree goes too."""
    new_since_ns: int = 0
    """Made without an initial import: sweeps take as new only what is younger. 0: everything was, or is being, imported."""
    is_lazy: bool = False
    """Of a file cache: names are imported directory by directory, when somebody looks (`movers.directory_importer`)."""
    has_event_queue: bool = False
    """The bucket has been seen to send its events to a queue made here: from then on it is a fault when it does not."""
    token: str = ""
    """The ClientRequestToken that it was made with, if any."""

    def with_defaults(self, defaults: AssociationSettings) -> Association:
        """One that the API made, with what its request could not say as the configuration says it now."""
        asked = ("file_system_path", "bucket", "prefix", "file_system_path_given", "data_repository_path_given", "export_prefix")
        own = {*asked, *(each.name for each in fields(Policies))}
        taken = {each.name: getattr(defaults, each.name) for each in fields(AssociationSettings) if each.name not in own}
        return replace(self, **taken)

    def with_settings(self, settings: AssociationSettings) -> Association:
        """The same association as configured now.

        A policy that the API changed holds until the configuration of that policy changes: only what differs from the last
        mount is news.
        """
        before, now = self.configured or policies_of(self), policies_of(settings)
        kept = {
            each.name: getattr(self, each.name)
            for each in fields(Policies)
            if getattr(before, each.name) == getattr(now, each.name)
        }
        asked = {each.name: getattr(settings, each.name) for each in fields(AssociationSettings)}
        return replace(self, **{**asked, **kept, "configured": now})

    def with_policies(self, policies: Policies) -> Association:
        """The same association with other policies until the configuration says something new."""
        return replace(
            self,
            configured=self.configured or policies_of(self),
            **{each.name: getattr(policies, each.name) for each in fields(Policies)},
        )

    @property
    def is_linked(self) -> bool:
        """Whether its directory belongs to the bucket: names in it are keys there."""
        return bool(self.root_ino) and self.lifecycle not in ("DELETING", "FAILED")

    @property
    def import_events(self) -> frozenset[str]:
        """What of the bucket shows here at present: nothing while it is MISCONFIGURED."""
        return self.auto_import if self.lifecycle != "MISCONFIGURED" else frozenset()

    @property
    def data_repository_path(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def chunk_bytes(self) -> int:
        return self.imported_file_chunk_size_mib << 20

    def key_of(self, relative: bytes) -> bytes:
        """Object key that a path relative to the linked directory is imported from, both without a leading slash."""
        return self.prefix.encode() + relative

    def export_key_of(self, relative: bytes) -> bytes:
        """Object key that it is exported to: the same one, unless there is an `export_prefix`."""
        return self.write_prefix.encode() + relative

    def is_written(self, key: bytes) -> bool:
        """Whether objects of this key are ours to write and delete."""
        return key.startswith(self.write_prefix.encode())

    def is_imported(self, key: bytes) -> bool:
        """Whether an object of this key shows as a file."""
        return key.startswith(self.prefix.encode()) and not (self.export_prefix and self.is_written(key))

    def relative_of(self, key: bytes) -> bytes:
        """The path that a key is imported from or exported to. INVARIANT: `is_imported` or `is_written`."""
        return key[len(self._prefix_of(key).encode()) :]

    def side_of(self, key: bytes) -> Association:
        """As if files were imported from where this key is, too: of an object that was exported, and comes back by another hand."""
        return replace(self, prefix=self.export_prefix, export_prefix="") if self._prefix_of(key) != self.prefix else self

    def _prefix_of(self, key: bytes) -> str:
        return self.export_prefix if self.export_prefix and self.is_written(key) else self.prefix


def policies_of(settings: AssociationSettings) -> Policies:
    return Policies(**{each.name: getattr(settings, each.name) for each in fields(Policies)})


def paths_overlap(a: str, b: str) -> bool:
    """Whether two file-system paths are equal or one contains the other."""
    a, b = a.rstrip("/") + "/", b.rstrip("/") + "/"
    return a.startswith(b) or b.startswith(a)


def key_defect(relative: bytes) -> str | None:
    """Why a key (relative to the prefix) cannot be a file or directory, or None. Source: fsx-spec section 3.4.

    A trailing slash marks a directory. `b""` is the linked directory's own marker and is fine.
    """
    if not relative:
        return None
    try:
        relative.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    if b"\0" in relative:
        return "contains a NUL byte"
    body = relative[:-1] if relative.endswith(b"/") else relative
    for part in body.split(b"/"):
        if not part:
            return "has an empty path component"
        if part in (b".", b".."):
            return "has a '.' or '..' component"
        if len(part) > MAX_NAME_BYTES:
            return f"has a component of {len(part)} bytes {TOO_LONG}"
    return None
