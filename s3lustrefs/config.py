"""Frozen Config, parsed and validated once; units in field names.

`load` is the only way from a SOURCE and its options to a Config. What -o says beats the file, and beats it for every
association; in the file a key inside `[[dra]]` beats the same key at the top. Nothing here reads a credential:
`profile` and `role_arn` only name where one can be found.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import pwd
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from s3lustrefs.errors import ConfigError
from s3lustrefs.model import association_rules as rules
from s3lustrefs.model import option_values as values
from s3lustrefs.model.association import AssociationSettings, Endpoint

CONFIG_DIR = Path("/etc/s3lustrefs")


@dataclass(frozen=True, slots=True)
class Config:
    """One mount as configured. `cache_bytes` None: whatever the targets' file systems hold."""

    source: str
    state_dir: Path
    cache_dirs: tuple[Path, ...]
    cache_bytes: int | None = None
    read_only: bool = False
    allow_other: bool = False
    noatime: bool = False
    lost_found_seconds: float = 30 * 86400.0
    """How long losers of conflicts are kept; 0: until they are too much."""
    lost_found_bytes: int | None = None
    """Most bytes of them; None: a tenth of the cache."""
    api_listen: str | None = None
    api_certificate: Path | None = None
    """PEM files; the key may be in the certificate's file."""
    api_key: Path | None = None
    kernel_options: tuple[str, ...] = ()
    """Standard mount options handed to the kernel as they are: dev, suid, noexec, ..."""
    dras: tuple[AssociationSettings, ...] = ()
    defaults: AssociationSettings = field(default_factory=partial(AssociationSettings, "", "", ""))
    """What an association that the API makes gets beside what its request says: a request names neither endpoint nor profile."""


def _path(value: object) -> Path:
    return Path(os.path.abspath(values.parse_text(value)))


def _paths(value: object) -> tuple[Path, ...]:
    parts = value if isinstance(value, list) else values.parse_text(value).split(":")
    paths = tuple(_path(part) for part in parts)
    if not paths or len(set(paths)) != len(paths):
        raise ValueError("must name one or more different directories, separated by ':' (in TOML a list of them)")
    return paths


Parser = Callable[[object], object]
_MOUNT_KEYS: dict[str, Parser] = {
    "state_dir": _path,
    "cache_dir": _paths,
    "cache_size": values.parse_size,
    "allow_other": values.parse_boolean,
    "ro": values.parse_boolean,
    "noatime": values.parse_boolean,
    "lost_found_age": values.parse_seconds,
    "lost_found_size": values.parse_size,
    "api_listen": values.parse_listen,
    "api_certificate": _path,
    "api_key": _path,
}
_ENDPOINT_KEYS: dict[str, Parser] = {
    "endpoint_url": values.parse_url,
    "region": values.parse_text,
    "profile": values.parse_text,
    "role_arn": values.parse_text,
    "addressing_style": values.parse_choice("auto", "path", "virtual"),
}
_DRA_KEYS: dict[str, Parser] = {
    "uid": values.parse_user_id,
    "gid": values.parse_user_id,
    "file_mode": values.parse_mode,
    "dir_mode": values.parse_mode,
    "imported_file_chunk_size": values.parse_chunk_mib,
    "auto_import": values.parse_events,
    "auto_export": values.parse_events,
    "import_interval": values.parse_seconds,
    "export_open_after": values.parse_seconds,
    "event_queue_url": values.parse_event_queue,
    "on_conflict": values.parse_choice("keep-both", "bucket-wins", "file-wins"),
    "posix_metadata": values.parse_choice("lazy", "eager", "off"),
}
_LINK_KEYS: dict[str, Parser] = {"file_system_path": values.parse_text, "data_repository_path": values.parse_text}
_EXPORT_KEYS: dict[str, Parser] = {"export_repository_path": values.parse_text}
_FIELD_NAMES = {
    "cache_dir": "cache_dirs",
    "cache_size": "cache_bytes",
    "lost_found_age": "lost_found_seconds",
    "lost_found_size": "lost_found_bytes",
    "ro": "read_only",
    "imported_file_chunk_size": "imported_file_chunk_size_mib",
    "import_interval": "import_interval_seconds",
    "export_open_after": "export_open_after_seconds",
}
OPTION_KEYS = {**_MOUNT_KEYS, **_ENDPOINT_KEYS, **_DRA_KEYS}

KERNEL_OPTIONS = frozenset("dev nodev suid nosuid exec noexec sync dirsync noatime nodiratime".split())
IGNORED_OPTIONS = frozenset(
    "defaults auto noauto user nouser users owner group _netdev nofail rw async atime diratime relatime norelatime strictatime"
    " nostrictatime lazytime nolazytime iversion noiversion mand nomand silent loud default_permissions".split()
)
"""Standard options that mount(8) acts on itself, or that ask for what is so in any case."""


# --- sources of options ---------------------------------------------------------------------------------------------------


def parse_option_string(text: str) -> dict[str, str | bool]:
    """`a,b=c` as {a: True, b: "c"}. A later option beats an earlier one; `rw` takes back an earlier `ro`."""
    options: dict[str, str | bool] = {}
    for word in filter(None, text.split(",")):
        key, equals, value = word.partition("=")
        options[key] = value if equals else True
        if key in ("ro", "rw"):
            options.pop("rw" if key == "ro" else "ro", None)
    return options


def _unknown(what: str, key: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"unknown {what} {key!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else "")


def _sort_options(options: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Options as (our keys with parsed values, words for the kernel)."""
    ours: dict[str, object] = {}
    kernel: list[str] = []
    for key, value in options.items():
        if key in KERNEL_OPTIONS:
            kernel.append(key)
        if parse := OPTION_KEYS.get(key):
            ours[key] = _parsed(f"mount option {key}={value}" if value is not True else f"mount option {key}", parse, value)
        elif key == "remount":
            raise ConfigError("mount option remount: not possible here; unmount and mount again with the new options")
        elif not (key in KERNEL_OPTIONS or key in IGNORED_OPTIONS or key.startswith(("x-", "X-")) or key == "comment"):
            raise ConfigError(_unknown("mount option", key, [*OPTION_KEYS, *KERNEL_OPTIONS, *IGNORED_OPTIONS]))
    return ours, tuple(kernel)


def _parsed(where: str, parse: Parser, value: object) -> object:
    try:
        return parse(value)
    except ValueError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


class _TomlFile:
    """A TOML file that can say in which line a key stands: tomllib keeps no positions, so the text is searched again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._text = path.read_text(encoding="utf-8")
            self.document = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as exc:
            raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
        except UnicodeDecodeError as exc:
            raise ConfigError(f"{path}: not valid TOML: not UTF-8 at byte {exc.start}") from exc
        except OSError as exc:
            raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc

    def where(self, key: str, table: int) -> str:
        """`FILE, line N: KEY`; table 0 is the top, table N the Nth [[dra]]."""
        at = 0
        for number, line in enumerate(self._text.splitlines(), start=1):
            at += line.lstrip().startswith("[[dra]]")
            if at == table and re.match(rf"\s*\[*\s*[\"']?{re.escape(key)}[\"']?\s*[=\].]", line):
                return f"{self.path}, line {number}: {key}"
        return f"{self.path}: {key}"

    def parse(self, given_keys: Mapping[str, object], keys: Mapping[str, Parser], table: int) -> dict[str, object]:
        parsed = {}
        for key, value in given_keys.items():
            if key not in keys:
                raise ConfigError(self.where(key, table) + ": " + _unknown("key", key, list(keys)))
            if key in ("state_dir", "cache_dir", "api_certificate", "api_key"):
                self._refuse_relative(key, value)
            parsed[key] = _parsed(f"{self.where(key, table)} = {value!r}", keys[key], value)
        return parsed

    def _refuse_relative(self, key: str, value: object) -> None:
        for path in value if isinstance(value, list) else str(value).split(":"):
            if not str(path).startswith("/"):
                raise ConfigError(f"{self.where(key, 0)}: {path!r} is not an absolute path")

    def load(self) -> tuple[dict[str, object], list[dict[str, object]]]:
        """(keys at the top, keys of each [[dra]])."""
        top = dict(self.document)
        tables = top.pop("dra", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise ConfigError(f"{self.where('dra', 0)}: associations are written as [[dra]] tables")
        parsed_top = self.parse(top, OPTION_KEYS, 0)
        dras = []
        for number, table in enumerate(tables, start=1):
            for key in _LINK_KEYS:
                if key not in table:
                    raise ConfigError(f"{self.path}: [[dra]] number {number} has no {key}")
            dras.append(self.parse(table, {**_LINK_KEYS, **_EXPORT_KEYS, **_ENDPOINT_KEYS, **_DRA_KEYS}, number))
        return parsed_top, dras


# --- from source and options to a Config ------------------------------------------------------------------------------------


def _config_file(source: str, config_dir: Path) -> Path:
    if "://" in source:
        raise ConfigError(f"source {source!r}: only s3://BUCKET[/PREFIX] can be mounted")
    if "/" in source or source.endswith(".toml"):
        return Path(os.path.abspath(source))
    path = config_dir / f"{source}.toml"
    if not source or not path.exists():
        raise ConfigError(
            f"source {source!r}: there is no {path}; a source is s3://BUCKET[/PREFIX], a TOML file, "
            f"or the NAME of {config_dir}/NAME.toml"
        )
    return path


def _dra(given_keys: Mapping[str, object], where: str) -> AssociationSettings:
    given, url = str(given_keys["file_system_path"]), str(given_keys["data_repository_path"])
    if defect := rules.file_system_path_defect(given):
        raise ConfigError(where + defect)
    split = rules.split_repository_path(url)
    if isinstance(split, str):
        raise ConfigError(where + split)
    endpoint = Endpoint(**{key: given_keys[key] for key in _ENDPOINT_KEYS if key in given_keys})  # type: ignore[arg-type]
    rest = {_FIELD_NAMES.get(key, key): given_keys[key] for key in _DRA_KEYS if key in given_keys}
    if (export := given_keys.get("export_repository_path")) is not None:
        if defect := rules.export_path_defect(str(export), *split):
            raise ConfigError(f"{where}export_repository_path: {defect}")
        rest["export_prefix"] = rules.export_prefix_of(str(export), split[1])
    return AssociationSettings(
        rules.normalise_file_system_path(given),
        split[0],
        split[1],
        given,
        url,
        endpoint,
        **(_owner() | rest),  # type: ignore[arg-type]
    )


def _owner() -> dict[str, int]:
    return {"uid": os.geteuid(), "gid": os.getegid()}


def _defaults(given_keys: Mapping[str, object]) -> AssociationSettings:
    """What stands at the top and on the command line, save what FSx's own requests say, with FSx's defaults for that."""
    endpoint = Endpoint(**{key: given_keys[key] for key in _ENDPOINT_KEYS if key in given_keys})  # type: ignore[arg-type]
    keys = _DRA_KEYS.keys() - {"auto_import", "auto_export", "imported_file_chunk_size"}
    rest = {_FIELD_NAMES.get(key, key): given_keys[key] for key in keys if key in given_keys}
    off: dict[str, frozenset[str]] = {"auto_import": frozenset(), "auto_export": frozenset()}
    return AssociationSettings("", "", "", endpoint=endpoint, **(_owner() | off | rest))  # type: ignore[arg-type]


def _associations(tables: Sequence[Mapping[str, object]], where: str) -> list[AssociationSettings]:
    dras: list[AssociationSettings] = []
    for table in tables:
        new = _dra(table, where)
        if defect := rules.addition_defect(new, dras):
            raise ConfigError(where + defect)
        dras.append(new)
    return dras


def default_state_dir(source: str, mountpoint: str) -> Path:
    """Where a mount keeps its state unless told: the same source at the same place finds it again."""
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", source.removeprefix("s3://")).strip("-.")[:60] or "mount"
    digest = hashlib.sha256(f"{source}\0{mountpoint}".encode()).hexdigest()[:10]
    if os.geteuid() == 0:
        base = Path("/var/lib/s3lustrefs")
    elif xdg := os.environ.get("XDG_STATE_HOME"):
        base = Path(xdg) / "s3lustrefs"
    else:
        home = os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
        base = Path(home) / ".local/state/s3lustrefs"
    return base / f"{words}-{digest}"


def configured_state_dir(path: Path) -> Path | None:
    """What a TOML file says; None: it leaves that to the mount. Raises: ConfigError."""
    top, _ = _TomlFile(path).load()
    found = top.get("state_dir")
    assert found is None or isinstance(found, Path)
    return found


def named_files() -> Path:
    """Where the NAME.toml files are."""
    return Path(os.path.abspath(os.environ.get("S3LUSTREFS_CONFIG_DIR") or CONFIG_DIR))


def checked_defaults(options: str) -> dict[str, object]:
    """Mount options for the TOML files of file systems to be made: as they were given, once they are known to be right.

    Raises: ConfigError.
    """
    ours, kernel = _sort_options(parse_option_string(options))
    if kernel or not ours.keys() <= {*_ENDPOINT_KEYS, *_DRA_KEYS, "allow_other", "noatime", "cache_size"}:
        raise ConfigError(f"{options}: not for a configuration file that is made for a new file system")
    return dict(parse_option_string(options))


def _check_api(mount: Mapping[str, object]) -> None:
    """Raises: ConfigError."""
    for key, needed in (("api_certificate", "api_listen"), ("api_key", "api_certificate")):
        if key in mount and needed not in mount:
            raise ConfigError(f"{key}={mount[key]}: means nothing without {needed}")
    address = str(mount.get("api_listen", "localhost:"))
    if "api_certificate" not in mount and not values.is_loopback(address):
        raise ConfigError(
            f"api_listen={address}: is not a loopback address: others could read along without api_certificate=FILE (TLS); "
            "or write for example 127.0.0.1:8987"
        )


def load(source: str, options: Mapping[str, object] | str, *, mountpoint: str, config_dir: Path | None = None) -> Config:
    """Everything that is to be known of a mount.

    Raises: ConfigError naming the option, or the file and line, and what would be right.
    """
    ours, kernel = _sort_options(parse_option_string(options) if isinstance(options, str) else options)
    top: dict[str, object] = {}
    if source.startswith("s3://"):
        identity = source.rstrip("/")
        tables: list[dict[str, object]] = [{"file_system_path": "/", "data_repository_path": source}]
    else:
        path = _config_file(source, config_dir or named_files())
        identity = str(path)
        top, tables = _TomlFile(path).load()
    dras = _associations([{**top, **table, **ours} for table in tables], "" if source.startswith("s3://") else f"{path}: ")
    mount = {_FIELD_NAMES.get(key, key): value for key, value in {**top, **ours}.items() if key in _MOUNT_KEYS}
    _check_api(mount)
    state_dir = mount.pop("state_dir", None) or default_state_dir(identity, os.path.realpath(mountpoint))
    assert isinstance(state_dir, Path)
    mount.setdefault("cache_dirs", (state_dir / "data",))
    return Config(
        source, state_dir, kernel_options=kernel, dras=tuple(dras), defaults=_defaults({**top, **ours}),
        **mount,  # type: ignore[arg-type]
    )  # fmt: skip
