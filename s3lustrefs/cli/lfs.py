"""`lfs` for hosts without Lustre: its HSM commands, on files of our mounts.

Options are read here, not by a library: a job may start this once for each of a million files, and the libraries take longer to
load than all of the rest. Source: lfs-hsm(1).
"""

from __future__ import annotations

import errno
import os
import sys

from s3lustrefs.cli import hsm_client

TYPE_CHECKING = False  # not from typing, which takes longer to load than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_FLAG_OPTIONS = {
    "-e": "exists", "--exists": "exists",
    "-d": "dirty", "--dirty": "dirty",
    "-A": "archived", "--archived": "archived",
    "-r": "norelease", "--norelease": "norelease",
    "-a": "noarchive", "--noarchive": "noarchive",
    "-l": "lost", "--lost": "lost",
}  # fmt: skip
_REQUEST_OPTIONS = {
    "-l": "filelist", "--filelist": "filelist",
    "-D": "data", "--data": "data",
    "-m": "mntpath", "--mntpath": "mntpath",
}  # fmt: skip
_ARCHIVE_OPTIONS = {"-a": "archive", "--archive": "archive"}
_ID_OPTIONS = {"-i": "archive-id", "--archive-id": "archive-id"}
_REQUESTS = ("archive", "restore", "release", "remove", "cancel")

USAGE = """\
usage: lfs hsm_state FILE...
       lfs hsm_action FILE...
       lfs hsm_archive|hsm_restore|hsm_release|hsm_remove|hsm_cancel
           [--filelist FILELIST|-l] [--data DATA|-D] [--archive N|-a] [--mntpath DIR|-m] FILE...
       lfs hsm_set|hsm_clear [--norelease|-r] [--noarchive|-a] [--dirty|-d] [--exists|-e] [--archived|-A] [--lost|-l]
           [--archive-id N|-i] FILE...

This lfs is part of s3lustrefs: the HSM commands of Lustre for files of its mounts. --archive goes with hsm_archive and
hsm_remove, --archive-id with hsm_set. Exit status: 0 done, else the errno of what failed first (22: wrong usage).

Example:  find /mnt/run/input -type f -print0 | xargs -0 -n 100 -P 8 lfs hsm_restore
"""


class Wrong(Exception):
    """The command line is wrong."""


def parse(arguments: Sequence[str], switches: dict[str, str], valued: dict[str, str]) -> tuple[set[str], dict[str, str], list[str]]:
    """(switches given, values given, the rest), as getopt_long(3): options anywhere before `--`, long ones also as `--name=value`
    and shortened, short ones together. Raises: Wrong."""
    given: set[str] = set()
    values: dict[str, str] = {}
    rest: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += left
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        name, has_value, value = word.partition("=") if word.startswith("--") else (word[:2], bool(word[2:]), word[2:])
        name = _completed(name, [*switches, *valued])
        if name in valued:
            if not has_value:
                if not left:
                    raise Wrong(f"{name} needs a value")
                value = left.pop(0)
            values[valued[name]] = value
            continue
        given.add(switches[name])
        if has_value:
            if word.startswith("--"):
                raise Wrong(f"{name} takes no value")
            left.insert(0, f"-{value}")
    return given, values, rest


def _completed(name: str, known: list[str]) -> str:
    if name in known:
        return name
    found = [each for each in known if name.startswith("--") and each.startswith(name)]
    if len(found) != 1:
        raise Wrong(f"{name}: {'could be any of ' + ', '.join(found) if found else 'no such option'}")
    return found[0]


def _number(values: dict[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise Wrong(f"--{name} {text}: not a number")
    return int(text)


def run(command: str, arguments: Sequence[str]) -> int:
    """One command; its exit status. Raises: Wrong."""
    said, verb = f"lfs {command}", command.removeprefix("hsm_")
    if verb in _REQUESTS:
        valued = {**_REQUEST_OPTIONS, **(_ARCHIVE_OPTIONS if verb in ("archive", "remove") else {})}
        _, values, paths = parse(arguments, {}, valued)
        return hsm_client.request(
            said, verb, paths,
            filelist=values.get("filelist"), archive_id=_number(values, "archive"), mount_point=values.get("mntpath"),
        )  # fmt: skip
    if verb in ("set", "clear"):
        flags, values, paths = parse(arguments, _FLAG_OPTIONS, _ID_OPTIONS if verb == "set" else {})
    else:
        flags, values, paths = parse(arguments, {}, {})
    if not paths:
        raise Wrong("no file is given")
    if verb in ("set", "clear"):
        return hsm_client.change_flags(said, paths, verb, flags, _number(values, "archive-id"))
    return hsm_client.state(said, paths) if verb == "state" else hsm_client.action(said, paths)


def process() -> NoReturn:
    """`main`, and an end at once: what the interpreter tidies up at its end costs a sixth of all the time of this process."""
    os._exit(main())


def main() -> int:
    """Run the command line of this process; nothing is left to be written then."""
    arguments = sys.argv[1:]
    command = arguments[0] if arguments else ""
    known = {f"hsm_{verb}" for verb in (*_REQUESTS, "set", "clear", "state", "action")}
    try:
        if command in ("-h", "--help", "help") or "--help" in arguments[1:]:
            sys.stdout.write(USAGE)
            sys.stdout.flush()
            return 0
        if command not in known:
            raise Wrong(f"{command}: not an HSM command, the others are Lustre's" if command else "no command is given")
        return run(command, arguments[1:])
    except Wrong as wrong:
        sys.stderr.write(f"lfs: {wrong}\n{USAGE}")
        return errno.EINVAL
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as `| head` does; nothing more can be said, not even at the end of the process
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return errno.EPIPE
