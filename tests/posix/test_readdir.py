"""Directory streams: what they show, and that positions hold while names come and go."""

from __future__ import annotations

import os
import random
import shutil
import stat
import threading
from pathlib import Path

import pytest

from tests.posix.calls import Stream
from tests.posix.conftest import LINKED, Place

MANY, SOME = 20_000, 4_000
DOTS = {b".", b".."}


def fill(root: Path, count: int) -> list[bytes]:
    names = [b"%07d" % number for number in range(count)]
    for name in names:
        os.mknod(os.fsencode(root) + b"/" + name, stat.S_IFREG | 0o644)
    return names


def size_for(place: Place, size: int = SOME) -> int:
    """Every name in an association becomes an object."""
    return 300 if place.setting == LINKED else size


def test_entries_tell_number_and_kind(place: Place) -> None:
    place.file()
    place.dir()
    (place.root / "l").symlink_to("f")
    os.mkfifo(place.root / "p")
    with Stream(place.root) as stream:
        entries = {each.name: each for each in stream.rest()}
    assert set(entries) == {*DOTS, b"f", b"d", b"l", b"p"}
    for name, each in entries.items():
        found = os.lstat(os.fsencode(place.root) + b"/" + name)
        assert (each.ino, each.kind) == (found.st_ino, stat.S_IFMT(found.st_mode) >> 12), name


def test_dots_of_subdirectories(place: Place) -> None:
    path = place.dir()
    (path / "sub").mkdir()
    with Stream(path / "sub") as stream:
        entries = {each.name: each.ino for each in stream.rest()}
    assert entries == {b".": (path / "sub").stat().st_ino, b"..": path.stat().st_ino}


def test_every_name_once(place: Place) -> None:
    names = fill(place.root, size_for(place, MANY))
    with Stream(place.root) as stream:
        found = [each.name for each in stream.rest()]
        assert sorted(found) == sorted([*names, *DOTS])
        stream.rewind()
        assert [each.name for each in stream.rest()] == found


def test_positions_can_be_returned_to(place: Place) -> None:
    names = fill(place.root, size_for(place))
    with Stream(place.root) as stream:
        marks = [(stream.tell(), stream.read()) for _ in range(len(names) + 2)]
        assert stream.read() is None
        random.Random(1).shuffle(marks)
        for position, entry in marks[:100]:
            stream.seek(position)
            assert stream.read() == entry
        end = stream.tell()
        expected = stream.read()
        stream.seek(end)
        assert stream.read() == expected


def test_positions_hold_while_names_come_and_go(place: Place) -> None:
    names = fill(place.root, size_for(place))
    order: list[bytes] = []
    with Stream(place.root) as stream:
        marks = []
        while True:
            position, entry = stream.tell(), stream.read()
            if entry is None:
                break
            marks.append(position)
            order.append(entry.name)
        for name in names[::3]:
            os.unlink(os.fsencode(place.root) + b"/" + name)
        for name in names[1::50]:
            os.link(os.fsencode(place.root) + b"/" + names[1], os.fsencode(place.root) + b"/" + name + b"-new")
        kept = set(names) - set(names[::3]) | DOTS
        for index in range(0, len(order), len(order) // 20):
            stream.seek(marks[index])
            rest = [each.name for each in stream.rest()]
            assert len(rest) == len(set(rest))
            assert set(order[index:]) & kept <= set(rest), "missed"
            assert not set(rest) & set(order[:index]), "twice"


def test_listing_while_others_create_and_remove(place: Place) -> None:
    """What is there all the time is seen exactly once, the rest at most once."""
    names = fill(place.root, size_for(place))
    prefix = os.fsencode(place.root) + b"/"
    stop = threading.Event()

    def churn(seed: int) -> None:
        choice = random.Random(seed)
        while not stop.is_set():
            name = prefix + b"%07d-%d" % (choice.randrange(len(names)), seed)
            os.link(prefix + names[0], name)
            if choice.random() < 0.7:
                os.rename(name, name + b"r")
                name += b"r"
            os.unlink(name)

    threads = [threading.Thread(target=churn, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            with Stream(place.root) as stream:
                found = [each.name for each in stream.rest()]
            assert len(found) == len(set(found)), "twice"
            assert set(names) <= set(found), "missed"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_removing_what_was_just_read(place: Place) -> None:
    """As rm -r does it: in a directory that shrinks under its reader nothing is left over."""
    fill(place.root, size_for(place))
    with Stream(place.root) as stream:
        while (each := stream.read()) is not None:
            if each.name not in DOTS:
                os.unlink(os.fsencode(place.root) + b"/" + each.name)
    assert os.listdir(place.root) == []


def test_one_stream_shared_by_descriptors(place: Place) -> None:
    fill(place.root, 50)
    descriptor = os.open(place.root, os.O_RDONLY)
    try:
        assert len(os.listdir(descriptor)) == len(os.listdir(descriptor)) == 50
        place.file()
        assert len(os.listdir(descriptor)) == 51, "rewound, it shows what is new"
    finally:
        os.close(descriptor)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_million_names(place: Place) -> None:
    if place.setting == LINKED:
        pytest.skip("a million objects")
    names = fill(place.root, 1_000_000)
    with Stream(place.root) as stream:
        found, removed = [], set()
        while (each := stream.read()) is not None:
            found.append(each.name)
            if len(found) % 1000 == 0:
                removed.add(names[len(found) - 1])
                os.unlink(os.fsencode(place.root) + b"/" + names[len(found) - 1])
    assert len(found) == len(set(found))
    assert set(names) - set(found) <= removed
    with Stream(place.root) as stream:
        assert {each.name for each in stream.rest()} == set(names) - removed | DOTS
    if place.is_reference:
        shutil.rmtree(place.root)  # pytest would keep it for three runs
