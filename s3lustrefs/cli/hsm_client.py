"""What HSM commands do, `lfs hsm_*` and `s3lustrefs hsm` alike: each function is one command, and returns its exit status.

They speak to the daemon through the mount (`fs/hsm_door`), so they need neither root nor the control socket. A job starts them once
for each of its files, so nothing is imported here but what the interpreter has loaded anyway.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

TYPE_CHECKING = False  # not from typing, which takes longer to load than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TextIO, TypeVar

    Answer = TypeVar("Answer")

DOOR = "system.s3lustrefs.hsm"
ARCHIVE_ID = 1
"""The only archive there is."""

FLAGS = {"exists": 0x01, "dirty": 0x02, "archived": 0x08, "norelease": 0x10, "noarchive": 0x20, "lost": 0x40}

_MANY, _AT_ONCE = 64, 16
_FOREIGN = (errno.EOPNOTSUPP, errno.ENOSYS)


class Refusal(Exception):
    """Why something cannot be done, and with which exit status."""

    def __init__(self, number: int, reason: str = "") -> None:
        super().__init__(f"{os.strerror(number)}: {reason}" if reason else os.strerror(number))
        self.number = number


class Report:
    """Writes to the terminal; `status` is the errno of what went wrong first."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.status = 0

    def line(self, path: str, text: str) -> None:
        _write(sys.stdout, f"{path}: {text}")

    def failed(self, path: str, refusal: Refusal) -> None:
        sys.stdout.flush()
        _write(sys.stderr, f"{self._command}: {path}: {refusal}" if path else f"{self._command}: {refusal}")
        self.status = self.status or refusal.number


def _write(stream: TextIO, text: str) -> None:
    """Names of others are shown as they are to a program; on a terminal nothing in them breaks a line or steers it."""
    if stream.isatty():
        text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode() for sign in text)
    stream.buffer.write(os.fsencode(text) + b"\n")
    if stream is sys.stderr:
        sys.stderr.buffer.flush()


def ask(path: str, name: str = "") -> str:
    """The daemon's answer about a file. Raises: Refusal."""
    try:
        return os.fsdecode(os.getxattr(path, DOOR + name))
    except OSError as exc:
        number = exc.errno or errno.EIO
        if number == errno.ENODATA:
            raise Refusal(errno.EINVAL, "not a regular file") from exc
        raise Refusal(number, "not in a file system mounted by s3lustrefs" if number in _FOREIGN else "") from exc


def _order(path: str, name: str) -> str:
    """Nothing is to be said about an order that was accepted. Raises: Refusal."""
    answer = ask(path, name)
    if answer:
        number, _, reason = answer.partition(" ")
        raise Refusal(int(number), reason)
    return ""


# --- commands ------------------------------------------------------------------------------------------------------------


def state(command: str, paths: Sequence[str]) -> int:
    """`PATH: (0x0000000d) released exists archived, archive_id:1` for each file."""
    return _each(Report(command), paths, ask)


def action(command: str, paths: Sequence[str]) -> int:
    """`PATH: NOOP`, or what is being done with the file."""
    return _each(Report(command), paths, lambda path: ask(path, ".action"))


def change_flags(command: str, paths: Sequence[str], order: str, flags: Iterable[str], archive_id: int | None = None) -> int:
    """`order` is `set` or `clear`."""
    report = Report(command)
    bits = 0
    for flag in flags:
        bits |= FLAGS[flag]
    if archive_id not in (None, 0, ARCHIVE_ID):
        report.failed("", Refusal(errno.EINVAL, f"there is no archive {archive_id}, only {ARCHIVE_ID}"))
        return report.status
    if not bits:
        if archive_id is None:
            report.failed("", Refusal(errno.EINVAL, "no flag is given"))
        return report.status
    return _each(report, paths, lambda path: _order(path, f".{order}.{bits:08x}"))


def _each(report: Report, paths: Sequence[str], deed: Callable[[str], str]) -> int:
    for path, answer in zip(paths, _answers(paths, deed), strict=True):
        if isinstance(answer, Refusal):
            report.failed(path, answer)
        elif answer:
            report.line(path, answer)
    sys.stdout.flush()
    return report.status


def _answers(paths: Sequence[str], deed: Callable[[str], Answer]) -> Iterator[Answer | Refusal]:
    """What the deed returns for each path, in their order. Of many paths several are asked about at a time: one after another each
    would wait for the daemon, and perhaps the bucket, by itself."""

    def answer(path: str) -> Answer | Refusal:
        try:
            return deed(path)
        except Refusal as refusal:
            return refusal

    if len(paths) < _MANY:
        yield from map(answer, paths)
        return
    from multiprocessing.pool import ThreadPool

    with ThreadPool(_AT_ONCE) as pool:
        yield from pool.imap(answer, paths, chunksize=16)


def request(
    command: str,
    verb: str,
    paths: Sequence[str],
    *,
    filelist: str | None = None,
    archive_id: int | None = None,
    mount_point: str | None = None,
) -> int:
    """Archive, restore, release, remove or cancel. Nothing is asked for unless all of the paths can be asked for."""
    report = Report(command)
    if archive_id not in (None, 0, ARCHIVE_ID):
        report.failed("", Refusal(errno.EINVAL, f"there is no archive {archive_id}, only {ARCHIVE_ID}"))
        return report.status
    try:
        wanted = [*paths, *(_listed(filelist) if filelist is not None else ())]
        device = _device(mount_point) if mount_point is not None else None
    except Refusal as refusal:
        report.failed(filelist if filelist is not None and mount_point is None else mount_point or "", refusal)
        return report.status
    if not wanted:
        report.failed("", Refusal(errno.EINVAL, "no file is given"))
    for path, found in zip(wanted, _answers(wanted, _check), strict=True):
        if isinstance(found, Refusal):
            report.failed(path, found)
        elif device not in (None, found):
            report.failed(path, Refusal(errno.EXDEV, "all files must be in one file system"))
        else:
            device = found
    return report.status or _each(report, wanted, lambda path: _order(path, f".{verb}"))


def _listed(filelist: str) -> list[str]:
    """The paths in a file, one in each line. Raises: Refusal."""
    try:
        with open(filelist, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as exc:
        raise Refusal(exc.errno or errno.EIO) from exc
    return [os.fsdecode(line) for line in lines if line]


def _device(mount_point: str) -> int:
    """The file system that the files must be in. Raises: Refusal."""
    try:
        return os.stat(mount_point).st_dev
    except OSError as exc:
        raise Refusal(exc.errno or errno.EIO) from exc


def _check(path: str) -> int:
    """The device of a file that requests can be about. Raises: Refusal."""
    try:
        found = os.lstat(path)
    except OSError as exc:
        raise Refusal(exc.errno or errno.EIO) from exc
    if not stat.S_ISREG(found.st_mode):
        raise Refusal(errno.EINVAL, "not a regular file")
    return found.st_dev
