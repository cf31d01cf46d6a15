"""Each promise in the README, quoted, then executed: with the installed commands, on a real mount, checked with plain boto3."""

from __future__ import annotations

import errno
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.semantics.mounted import Place, bucket_content, can_mount, place, put_objects, wait_for_end
from tests.servers import S3Server

pytestmark = pytest.mark.skipif(not can_mount(), reason="this host cannot mount: no /dev/fuse or no fusermount3")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
OBJECTS = [
    ("p/a.txt", b"alpha\n", {}),
    ("p/d/b.bin", b"\x00\x01" * 307_200, {}),
    ("p/d/e/c.txt", b"gamma\n", {"colour": "red", "file-permissions": "0100640", "file-owner": "0", "file-group": "0"}),
]


def promise(words: str) -> None:
    """The README must still say this."""
    assert f"- {words}\n" in README, f"the README no longer promises: {words}"


@pytest.fixture
def bucket(moto_server: S3Server) -> str:
    name = f"t-{uuid.uuid4().hex[:16]}"
    moto_server.client().create_bucket(Bucket=name)
    put_objects(moto_server, name, OBJECTS)
    return name


@pytest.fixture
def here(moto_server: S3Server, bucket: str) -> Iterator[Place]:
    """The bucket's prefix `p`, mounted and imported."""
    with place(moto_server, bucket, "p") as there:
        there.mount()
        there.wait_for_import()
        yield there
        if os.path.ismount(there.mount_point):
            there.s3lustrefs("unmount", "--no-drain", str(there.mount_point))


def keys(here: Place) -> list[str]:
    return sorted(bucket_content(here.server, here.bucket))


def hsm(here: Place, path: str) -> str:
    return os.getxattr(here.mount_point / path, "user.s3lustrefs.hsm").decode()


def drain(here: Place) -> None:
    here.s3lustrefs("drain", str(here.mount_point), "--timeout", "60")


def test_listing_downloads_nothing(here: Place) -> None:
    promise("After a mount the whole tree can be listed while not one byte of content was downloaded.")
    found = here.run("find", str(here.mount_point), "-type", "f", "-printf", "%P %s\n").stdout.splitlines()
    assert sorted(found) == [f"{key.removeprefix('p/')} {len(body)}" for key, body, _ in OBJECTS]
    assert here.status()["cache"]["used_bytes"] == 0


def test_reading_one_file_makes_only_it_resident(here: Place) -> None:
    promise("Reading a file makes that file resident, and no other.")
    assert (here.mount_point / "d/b.bin").read_bytes() == OBJECTS[1][1]
    assert here.status()["cache"]["used_bytes"] == len(OBJECTS[1][1])
    assert hsm(here, "d/b.bin").startswith("(0x00000009)")
    assert hsm(here, "a.txt").startswith("(0x0000000d)")


def test_file_is_one_plain_object(here: Place) -> None:
    promise("A file is one plain object at `PREFIX/relative/path`.")
    (here.mount_point / "d/new.txt").write_bytes(b"new\n")
    drain(here)
    assert bucket_content(here.server, here.bucket)["p/d/new.txt"][0] == b"new\n"


def test_directories_and_symlinks_have_their_objects(here: Place) -> None:
    promise("Directories are zero-byte keys that end in `/`; symlinks are objects that hold their target.")
    (here.mount_point / "fresh").mkdir()
    (here.mount_point / "link").symlink_to("d/b.bin")
    drain(here)
    content = bucket_content(here.server, here.bucket)
    assert content["p/fresh/"][0] == b""
    assert content["p/link"][0] == b"d/b.bin"
    assert content["p/link"][1]["file-permissions"] == "0120777"


def test_drain_means_everything_is_in_the_bucket(here: Place) -> None:
    promise("When `drain` exits with 0, everything that was written is in the bucket.")
    wanted = {f"p/many/{number}": os.urandom(1000 + number) for number in range(100)}
    (here.mount_point / "many").mkdir()
    for key, body in wanted.items():
        (here.mount_point / key.removeprefix("p/")).write_bytes(body)
    (here.mount_point / "d/b.bin").unlink()
    drain(here)
    content = bucket_content(here.server, here.bucket)
    assert {key: content[key][0] for key in wanted} == wanted
    assert "p/d/b.bin" not in content


def test_rename_downloads_nothing(here: Place) -> None:
    promise("A file renamed locally keeps its content, without being downloaded.")
    (here.mount_point / "d").rename(here.mount_point / "moved")
    drain(here)
    assert here.status()["hydration"]["bytes"] == 0
    content = bucket_content(here.server, here.bucket)
    assert content["p/moved/b.bin"][0] == OBJECTS[1][1]
    assert not [key for key in content if key.startswith("p/d/")]
    assert (here.mount_point / "moved/b.bin").read_bytes() == OBJECTS[1][1]


def test_foreign_metadata_survives_a_rewrite(here: Place) -> None:
    promise("Content-Type and user metadata of others survive when a file is rewritten.")
    here.server.client().put_object(
        Bucket=here.bucket, Key="p/typed", Body=b"old", ContentType="application/x-special", Metadata={"colour": "blue"}
    )
    here.unmount()
    with place(here.server, here.bucket, "p") as there:
        there.mount()
        there.wait_for_import()
        (there.mount_point / "typed").write_bytes(b"entirely new")
        drain(there)
        there.unmount()
    answer = here.server.client().get_object(Bucket=here.bucket, Key="p/typed")
    assert answer["Body"].read() == b"entirely new"
    assert answer["ContentType"] == "application/x-special"
    assert answer["Metadata"]["colour"] == "blue"


def test_released_file_is_no_hole(here: Place) -> None:
    promise("A released file has `st_blocks` of at least 1, so that `tar` and `cp` do not take it for a hole.")
    assert (here.mount_point / "d/b.bin").stat().st_blocks >= 1
    archive = here.scratch / "all.tar"
    here.run("tar", "--sparse", "-cf", str(archive), "-C", str(here.mount_point), "d/b.bin")
    assert here.run("tar", "-xOf", str(archive)).stdout == OBJECTS[1][1].decode()


def test_neither_side_of_a_conflict_is_lost(here: Place) -> None:
    promise("The bucket's version is never overwritten unseen: the local file is kept beside it as `NAME.conflict-...`.")
    (here.mount_point / "a.txt").read_bytes()
    here.server.client().put_object(Bucket=here.bucket, Key="p/a.txt", Body=b"theirs\n")
    (here.mount_point / "a.txt").write_bytes(b"ours\n")
    drain(here)
    content = bucket_content(here.server, here.bucket)
    assert content["p/a.txt"][0] == b"theirs\n"
    (conflict,) = [key for key in content if key.startswith("p/a.txt.conflict-")]
    assert content[conflict][0] == b"ours\n"
    assert (here.mount_point / "a.txt").read_bytes() == b"theirs\n"


@pytest.mark.parametrize("policy", ["bucket-wins", "file-wins"])
def test_the_loser_of_a_conflict_is_kept(moto_server: S3Server, bucket: str, policy: str) -> None:
    promise("With `bucket-wins` and `file-wins` the loser is kept below `.s3lustrefs-lost+found`, and `s3lustrefs why` says where.")
    with place(moto_server, bucket, "p", on_conflict=policy) as here:
        here.mount()
        here.wait_for_import()
        (here.mount_point / "a.txt").write_bytes(b"ours\n")
        moto_server.client().put_object(Bucket=bucket, Key="p/a.txt", Body=b"theirs\n")
        drain(here)
        winner, loser = (b"theirs\n", b"ours\n") if policy == "bucket-wins" else (b"ours\n", b"theirs\n")
        assert bucket_content(moto_server, bucket)["p/a.txt"][0] == winner
        assert (here.mount_point / "a.txt").read_bytes() == winner
        assert (here.mount_point / ".s3lustrefs-lost+found/a.txt").read_bytes() == loser
        assert "/.s3lustrefs-lost+found/a.txt" in here.s3lustrefs("why", str(here.mount_point / "a.txt")).stdout
        here.unmount()


def test_a_change_survives_a_deletion(here: Place) -> None:
    promise("A change survives a deletion, whichever side made the one and the other.")
    client = here.server.client()
    (here.mount_point / "a.txt").write_bytes(b"ours\n")
    client.delete_object(Bucket=here.bucket, Key="p/a.txt")
    client.put_object(Bucket=here.bucket, Key="p/d/b.bin", Body=b"theirs\n")
    (here.mount_point / "d/b.bin").unlink()
    drain(here)
    content = bucket_content(here.server, here.bucket)
    assert content["p/a.txt"][0] == b"ours\n" and content["p/d/b.bin"][0] == b"theirs\n"
    assert (here.mount_point / "d/b.bin").read_bytes() == b"theirs\n"


def test_policy_off_writes_nothing(moto_server: S3Server, bucket: str) -> None:
    promise("What is not to be exported stays local: with `auto_export=none` the bucket is never written.")
    with place(moto_server, bucket, "p", auto_export="none") as there:
        there.mount()
        there.wait_for_import()
        (there.mount_point / "local").write_bytes(b"x")
        (there.mount_point / "a.txt").write_bytes(b"changed here")
        (there.mount_point / "d/b.bin").unlink()
        drain(there)
        assert bucket_content(moto_server, bucket) == {key: (body, metadata) for key, body, metadata in OBJECTS}
        assert (there.mount_point / "a.txt").read_bytes() == b"changed here"
        there.unmount()


def test_odd_keys_are_skipped_and_listed(moto_server: S3Server, bucket: str) -> None:
    promise("Keys that cannot be files are skipped, counted, and listed with the reason.")
    odd = ["p/empty//component", "p/a/../b", f"p/{'n' * 256}"]
    put_objects(moto_server, bucket, [(key, b"x", {}) for key in odd])
    with place(moto_server, bucket, "p") as there:
        there.mount()
        status = there.wait_for_import()
        assert status["associations"][0]["import"]["skipped"] == len(odd)
        listed = there.s3lustrefs("status", str(there.mount_point), "--skipped").stdout
        assert "empty path component" in listed and "'..' component" in listed and "256 bytes" in listed
        assert sorted(os.listdir(there.mount_point)) == ["a.txt", "d"]
        there.unmount()


def test_second_mount_is_warm(here: Place) -> None:
    promise("After unmounting and mounting again nothing is imported or downloaded twice.")
    (here.mount_point / "d/b.bin").read_bytes()
    here.unmount()
    here.options["auto_import"] = "none"
    for key in ("p/a.txt", "p/d/b.bin"):
        here.server.client().delete_object(Bucket=here.bucket, Key=key)
    here.mount()
    assert sorted(os.listdir(here.mount_point)) == ["a.txt", "d"]
    assert (here.mount_point / "d/b.bin").read_bytes() == OBJECTS[1][1]
    assert here.status()["hydration"]["bytes"] == 0
    here.unmount()
    assert here.s3lustrefs("fsck", str(here.state_dir)).returncode == 0


def test_changes_in_the_bucket_show(here: Place) -> None:
    promise("What others add, change or delete in the bucket shows at the next sweep, or at once with `s3lustrefs refresh`.")
    assert sorted(os.listdir(here.mount_point)) == ["a.txt", "d"]
    bucket = here.server.client()
    bucket.put_object(Bucket=here.bucket, Key="p/new.txt", Body=b"new")
    bucket.put_object(Bucket=here.bucket, Key="p/d/b.bin", Body=b"changed")
    bucket.delete_object(Bucket=here.bucket, Key="p/a.txt")
    here.s3lustrefs("refresh", str(here.mount_point))
    assert sorted(os.listdir(here.mount_point)) == ["d", "new.txt"]
    assert (here.mount_point / "d/b.bin").read_bytes() == b"changed"


def test_killed_daemon_loses_nothing(here: Place) -> None:
    promise(
        "When the daemon is killed, access fails with ENOTCONN, the next mount clears that up, and nothing acknowledged is lost."
    )
    (here.mount_point / "written").write_bytes(b"acknowledged\n")
    pid = here.status()["pid"]
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pidfd)
    with pytest.raises(OSError) as caught:
        os.listdir(here.mount_point)
    assert caught.value.errno == errno.ENOTCONN
    here.mount()
    assert (here.mount_point / "written").read_bytes() == b"acknowledged\n"
    drain(here)
    assert bucket_content(here.server, here.bucket)["p/written"][0] == b"acknowledged\n"


def test_every_promise_is_executed() -> None:
    """No line of the list without a test above."""
    section = README.partition("## What is promised")[2].partition("Beyond these")[0]
    lines = [line.removeprefix("- ") for line in section.splitlines() if line.startswith("- ")]
    source = Path(__file__).read_text(encoding="utf-8")
    assert lines and [line for line in lines if source.count(f'"{line}"') != 1] == []
