"""The main job, end to end, on a bucket of a few thousand objects: `./dev demo`.

Everything is real: an S3 server on loopback (moto), the installed commands, the kernel's FUSE. Whatever the file system
claims is then checked with plain boto3, object by object; the exit status is non-zero on the first claim that is not true.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tests.semantics.mounted import Place, bucket_content, can_mount, place, put_objects
from tests.servers import moto

BUCKET, PREFIX = "genomics-demo", "project-x"
console = Console(highlight=False, soft_wrap=True)


class Mismatch(Exception):
    """Something is not as it was promised."""


def expect(true: bool, claim: str) -> None:
    if not true:
        raise Mismatch(claim)
    console.print(f"  [green]✓[/] {escape(claim)}")


def heading(text: str) -> None:
    console.print(f"\n[bold]{escape(text)}[/]")


def show(text: str) -> None:
    for line in text.rstrip().splitlines():
        console.print(f"    [dim]{escape(line)}[/]")


def shell(here: Place, command: str) -> str:
    """Run a shell command in the mount, showing it and what it printed."""
    console.print(f"  [cyan]$ {escape(command)}[/]")
    output = here.run("sh", "-ec", f"cd {here.mount_point} && {command}").stdout
    show(output)
    return output


def command(here: Place, *arguments: str) -> str:
    """Run s3lustrefs, showing it and what it printed."""
    console.print(f"  [cyan]$ s3lustrefs {escape(' '.join(arguments))}[/]")
    output = here.s3lustrefs(*arguments).stdout
    show(output)
    return output


def make_objects(count: int) -> dict[str, tuple[bytes, dict[str, str]]]:
    """A project's bucket: samples in run directories, a few large reads, notes with POSIX metadata."""
    dice = random.Random(2)
    objects: dict[str, tuple[bytes, dict[str, str]]] = {}
    for number in range(count):
        key = f"samples/run-{number % 24:02d}/sample-{number:05d}.tsv"
        objects[key] = (f"sample\t{number}\n".encode() + dice.randbytes(dice.randrange(200, 6000)).hex().encode(), {})
    for number in range(4):
        objects[f"reads/lane-{number}.bin"] = (dice.randbytes(6 << 20), {})
    posix = {"file-permissions": "0100640", "file-owner": "1000", "file-group": "1000", "file-mtime": "1700000000000000000ns"}
    objects["notes/protocol.txt"] = (b"step 1: mix\n", posix)
    objects["notes/journal.log"] = (b"day 1: began\n", posix)
    objects["notes/Überblick – 概要.md"] = ("# Überblick\n".encode(), {})
    return objects


# --- acts ---------------------------------------------------------------------------------------------------------------


def link_and_list(here: Place, objects: dict[str, tuple[bytes, dict[str, str]]]) -> None:
    heading("2. Mount it; only names and attributes are imported")
    started = time.monotonic()
    console.print(f"  [cyan]$ {escape(' '.join(here.mount()))}[/]")
    expect(os.path.ismount(here.mount_point), f"mounted, and answering after {time.monotonic() - started:.2f} s")
    status = here.wait_for_import()
    imported = status["associations"][0]["import"]["objects"]
    expect(imported == len(objects), f"{imported:,} objects imported, {time.monotonic() - started:.1f} s after the mount command")

    heading("3. The whole tree is there, although nothing was downloaded")
    shell(here, "ls -lR | tail -5")
    expect(int(shell(here, "find . -type f | wc -l")) == len(objects), "find sees every object")
    sizes = {f"./{key}": len(body) for key, (body, _) in objects.items()}
    seen = here.run("sh", "-ec", f"cd {here.mount_point} && find . -type f -printf '%s %p\\n'").stdout.splitlines()
    found = {path: int(size) for size, _, path in (line.partition(" ") for line in seen)}
    expect(found == sizes, f"every size is right ({sum(sizes.values()) / 1e6:.1f} MB in all)")
    attributes = (here.mount_point / "notes/protocol.txt").stat()
    expect(
        (attributes.st_mode, attributes.st_uid, attributes.st_mtime_ns) == (0o100640, 1000, 1_700_000_000_000_000_000),
        "mode, owner and time written by FSx for Lustre are shown",
    )
    expect(here.status()["cache"]["used_bytes"] == 0, "resident bytes: 0")


def read_one(here: Place, objects: dict[str, tuple[bytes, dict[str, str]]]) -> None:
    heading("4. Reading one file brings that file, and no other")
    key, neighbour = "reads/lane-2.bin", "reads/lane-1.bin"
    digest = shell(here, f"sha256sum {key}").split()[0]
    expect(digest == hashlib.sha256(objects[key][0]).hexdigest(), "its bytes are the object's")
    states = command(here, "hsm", "state", str(here.mount_point / key), str(here.mount_point / neighbour)).splitlines()
    expect(states[0].endswith(": (0x00000009) exists archived, archive_id:1"), "it is resident now")
    expect(states[1].endswith(": (0x0000000d) released exists archived, archive_id:1"), "its neighbour is not")
    used = here.status()["cache"]["used_bytes"]
    expect(used == len(objects[key][0]), f"resident bytes: {used:,}, exactly this file's")


def work(here: Place, objects: dict[str, tuple[bytes, dict[str, str]]]) -> dict[str, bytes]:
    """The job; the answer is what the bucket must hold afterwards (files and symlinks)."""
    heading("5. A job writes, appends, renames, deletes")
    wanted = {key: body for key, (body, _) in objects.items()}
    shell(here, "mkdir -p results && for i in 1 2 3; do echo result $i > results/part-$i.csv; done")
    wanted |= {f"results/part-{number}.csv": f"result {number}\n".encode() for number in (1, 2, 3)}
    shell(here, "cat results/part-*.csv > results/all.csv && chmod 600 results/all.csv")
    wanted["results/all.csv"] = b"result 1\nresult 2\nresult 3\n"
    shell(here, "echo 'day 2: appended to a file that was never downloaded' >> notes/journal.log")
    wanted["notes/journal.log"] += b"day 2: appended to a file that was never downloaded\n"
    shell(here, "printf PATCHED | dd of=reads/lane-0.bin bs=1 seek=3000000 conv=notrunc status=none")
    lane = wanted["reads/lane-0.bin"]
    wanted["reads/lane-0.bin"] = lane[:3_000_000] + b"PATCHED" + lane[3_000_007:]
    shell(here, "mv samples/run-07 samples/rejected && mv notes/protocol.txt notes/protocol-v1.txt")
    for key in [key for key in wanted if key.startswith("samples/run-07/")]:
        wanted[key.replace("run-07", "rejected")] = wanted.pop(key)
    wanted["notes/protocol-v1.txt"] = wanted.pop("notes/protocol.txt")
    shell(here, "rm -r samples/run-03 && rm reads/lane-3.bin")
    wanted = {key: body for key, body in wanted.items() if not key.startswith("samples/run-03/") and key != "reads/lane-3.bin"}
    shell(here, "ln -s all.csv results/latest && readlink results/latest")
    wanted["results/latest"] = b"all.csv"
    return wanted


def drain_and_verify(here: Place, wanted: dict[str, bytes]) -> None:
    heading("6. The drain barrier: everything is in the bucket")
    started = time.monotonic()
    command(here, "drain", str(here.mount_point))
    console.print(f"  exit status 0 after {time.monotonic() - started:.2f} s")

    heading("7. An independent client (plain boto3) confirms it, object by object")
    found = {key.removeprefix(f"{PREFIX}/"): value for key, value in bucket_content(here.server, here.bucket).items()}
    files = {key: body for key, (body, _) in found.items() if not key.endswith("/")}
    expect(sorted(files) == sorted(wanted), f"exactly the {len(wanted):,} keys that must exist, none of those that must not")
    wrong = [key for key, body in files.items() if body != wanted[key]]
    expect(not wrong, f"every byte of every object is right{': not ' + wrong[0] if wrong else ''}")
    markers = {key for key, (body, _) in found.items() if key.endswith("/") and not body}
    directories = {f"{parent}/" for key in wanted for parent in map(str, Path(key).parents) if parent != "."}
    expect("results/" in markers and markers <= directories, "directories are zero-byte keys, and only where there is a directory")
    expect(found["results/all.csv"][1]["file-permissions"] == "0100600", "chmod arrived in the object's metadata")
    expect(found["results/latest"][1]["file-permissions"] == "0120777", "the symlink is an object that holds its target")
    moved = found["notes/protocol-v1.txt"][1]
    expect((moved["file-owner"], moved["file-permissions"]) == ("1000", "0100640"), "a renamed file kept its owner and mode")


def restart(here: Place, wanted: dict[str, bytes]) -> None:
    heading("8. Unmount and mount again: nothing is imported or downloaded twice")
    command(here, "unmount", str(here.mount_point))
    expect(not os.path.ismount(here.mount_point), "the mount point is free")
    command(here, "fsck", str(here.state_dir))
    here.mount()
    status = here.wait_for_import()
    expect(status["hydration"]["bytes"] == 0 and status["export"]["due"] == 0, "nothing is due, nothing was downloaded")
    expect(int(shell(here, "find . -type f -o -type l | wc -l")) == len(wanted), "the tree is the same")
    state = command(here, "hsm", "state", str(here.mount_point / "reads/lane-2.bin"))
    expect("released" not in state, "the file read before is still resident")
    command(here, "unmount", str(here.mount_point))


def play(count: int) -> None:
    """The whole story. Raises: Mismatch, or RuntimeError when a command fails."""
    heading("1. A bucket, as any S3 tool may have left it")
    with moto() as server, place(server, BUCKET, PREFIX) as here:
        server.client().create_bucket(Bucket=BUCKET)
        objects = make_objects(count)
        started = time.monotonic()
        put_objects(server, BUCKET, [(f"{PREFIX}/{key}", body, metadata) for key, (body, metadata) in objects.items()])
        console.print(
            f"  {len(objects):,} objects put into {here.source} on {server.endpoint_url} ({time.monotonic() - started:.0f} s)"
        )
        link_and_list(here, objects)
        read_one(here, objects)
        wanted = work(here, objects)
        drain_and_verify(here, wanted)
        restart(here, wanted)


def main(say: Callable[[str], None] = console.print) -> int:
    """0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="./dev demo", description="Mount a bucket of a few thousand objects and work in it.")
    parser.add_argument("--objects", type=int, default=3000, help="how many samples the bucket holds (default 3000)")
    arguments = parser.parse_args()
    if not can_mount():
        say("[red]this host cannot mount: /dev/fuse or fusermount3 is missing[/]")
        return 1
    started = time.monotonic()
    try:
        play(arguments.objects)
    except (Mismatch, RuntimeError) as exc:
        say(f"\n[bold red]not as promised:[/] {escape(str(exc))}")
        return 1
    say(f"\n[bold green]Every promise was kept[/], in {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
