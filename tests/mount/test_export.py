"""What a job does to files, and what the bucket holds afterwards: on moto and on Ceph, checked with plain boto3."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import BIG, COLD, Area, fresh_bucket
from tests.mount.site import Site
from tests.semantics.mounted import put_objects

MIB = 1 << 20


def without(*paths: str) -> dict[str, bytes]:
    return {path: body for path, body in COLD.items() if path not in paths}


# --- content --------------------------------------------------------------------------------------------------------------


def test_created_file_becomes_one_plain_object(area: Area) -> None:
    (area.root / "report.txt").write_bytes(b"new file\n")
    os.chmod(area.root / "report.txt", 0o640)
    area.drain()
    head = area.site.head(area.key("report.txt"))
    assert area.site.body(area.key("report.txt")) == b"new file\n"
    assert head["ContentType"] == "text/plain"
    assert head["Metadata"]["file-permissions"] == "0100640"
    assert head["Metadata"]["file-mtime"] == f"{(area.root / 'report.txt').stat().st_mtime_ns}ns"
    assert area.objects() == {**COLD, "report.txt": b"new file\n"}


def test_empty_file_is_an_empty_object(area: Area) -> None:
    (area.root / "empty").touch()
    area.drain()
    assert area.objects() == {**COLD, "empty": b""}


def test_append_to_a_cold_file(area: Area) -> None:
    with open(area.root / "big", "ab") as file:
        file.write(b" and more")
    assert (area.root / "big").read_bytes() == BIG + b" and more"
    area.drain()
    assert area.objects()["big"] == BIG + b" and more"


def test_overwrite_in_the_middle_of_a_cold_file(area: Area) -> None:
    at = MIB + 12345
    with open(area.root / "big", "r+b") as file:
        file.seek(at)
        file.write(b"#" * 100)
    wanted = BIG[:at] + b"#" * 100 + BIG[at + 100 :]
    area.drain()
    assert area.objects()["big"] == wanted
    assert (area.root / "big").read_bytes() == wanted


def test_overwrite_far_past_the_end_of_a_cold_file_leaves_zeros_between(area: Area) -> None:
    with open(area.root / "big", "r+b") as file:
        file.seek(5 * MIB)
        file.write(b"far")
    wanted = BIG + bytes(5 * MIB - len(BIG)) + b"far"
    assert (area.root / "big").read_bytes() == wanted
    area.drain()
    assert area.objects()["big"] == wanted


@pytest.mark.parametrize("size", [0, 7, 2 * MIB, 2 * MIB + 77, len(BIG) + 3 * MIB])
@pytest.mark.parametrize("state", ["cold", "resident"])
def test_truncate(area: Area, state: str, size: int) -> None:
    if state == "resident":
        assert (area.root / "big").read_bytes() == BIG
    os.truncate(area.root / "big", size)
    wanted = BIG[:size].ljust(size, b"\0")
    assert (area.root / "big").stat().st_size == size
    area.drain()
    assert area.objects()["big"] == wanted
    assert (area.root / "big").read_bytes() == wanted


def test_truncate_down_and_up_again_shows_zeros(area: Area) -> None:
    with open(area.root / "big", "r+b") as file:
        file.truncate(MIB + 10)
        file.truncate(2 * MIB)
    wanted = BIG[: MIB + 10] + bytes(MIB - 10)
    area.drain()
    assert area.objects()["big"] == wanted
    assert (area.root / "big").read_bytes() == wanted


def test_rewrite_of_a_cold_file_downloads_nothing(area: Area) -> None:
    mark = area.proxy.mark()
    (area.root / "big").write_bytes(b"short now")
    area.drain()
    assert area.objects()["big"] == b"short now"
    assert area.proxy.content_gets(mark) == []


def test_many_small_writes_and_closes_end_with_the_last_content(area: Area) -> None:
    for number in range(30):
        with open(area.root / "log", "ab") as file:
            file.write(b"line %d\n" % number)
    area.drain()
    assert area.objects()["log"] == b"".join(b"line %d\n" % number for number in range(30))


def test_mmap_write(area: Area) -> None:
    # In a process of its own: a page that cannot be read is SIGBUS.
    program = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); m[2097152:2097156] = b'MMAP'; m.flush()"
    )
    area.site.run(sys.executable, "-c", program, area.root / "big")
    area.drain()
    assert area.objects()["big"] == BIG[: 2 * MIB] + b"MMAP" + BIG[2 * MIB + 4 :]


def test_sparse_file(area: Area) -> None:
    with open(area.root / "sparse", "wb") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    area.drain()
    assert area.objects()["sparse"] == bytes(3 * MIB) + b"end"


def test_large_file_goes_up_in_parts(area: Area) -> None:
    body = os.urandom(40 * MIB)
    (area.root / "large.bin").write_bytes(body)
    area.drain()
    head = area.site.head(area.key("large.bin"))
    assert head["ETag"].strip('"').endswith("-3")
    assert area.site.body(area.key("large.bin")) == body
    assert area.site.s3.list_multipart_uploads(Bucket=area.site.bucket).get("Uploads", []) == []


def test_file_open_for_writing_is_not_exported_before_its_close(area: Area) -> None:
    with open(area.root / "open", "wb") as file:
        file.write(b"first half,")
        file.flush()
        os.fsync(file.fileno())
        assert "open" not in area.objects()
        file.write(b" second half")
    area.drain()
    assert area.objects()["open"] == b"first half, second half"


# --- names ----------------------------------------------------------------------------------------------------------------


def test_renamed_cold_file_is_copied_by_the_server(area: Area) -> None:
    mark = area.proxy.mark()
    (area.root / "big").rename(area.root / "renamed")
    area.drain()
    assert area.proxy.content_gets(mark) == []
    assert area.proxy.uploads(mark) == []
    assert area.objects() == {**without("big"), "renamed": BIG}
    assert (area.root / "renamed").read_bytes() == BIG


def test_renamed_directory(area: Area) -> None:
    mark = area.proxy.mark()
    (area.root / "d").rename(area.root / "moved")
    assert sorted(os.listdir(area.root / "moved")) == ["sub", "x"]
    area.drain()
    assert area.proxy.content_gets(mark) == []
    found = {path: body for path, body in area.objects().items() if not path.endswith("/")}
    assert found == {**without("d/x", "d/sub/y"), "moved/x": b"x in d", "moved/sub/y": b"y in sub"}
    assert (area.root / "moved/sub/y").read_bytes() == b"y in sub"


def test_rename_over_an_existing_file(area: Area) -> None:
    (area.root / "a").rename(area.root / "b")
    (area.root / "fresh").write_bytes(b"fresh")
    (area.root / "fresh").rename(area.root / "c")
    area.drain()
    assert area.objects() == {**without("a"), "b": b"content of a", "c": b"fresh"}
    assert (area.root / "b").read_bytes() == b"content of a"


def test_two_cold_files_swap_their_names(area: Area) -> None:
    (area.root / "a").rename(area.root / "t")
    (area.root / "b").rename(area.root / "a")
    (area.root / "t").rename(area.root / "b")
    area.drain()
    assert area.objects() == {**COLD, "a": b"content of b", "b": b"content of a"}
    assert (area.root / "a").read_bytes() == b"content of b"
    assert (area.root / "b").read_bytes() == b"content of a"


def test_three_cold_files_change_places_in_a_circle(area: Area) -> None:
    (area.root / "a").rename(area.root / "t")
    (area.root / "b").rename(area.root / "a")
    (area.root / "c").rename(area.root / "b")
    (area.root / "t").rename(area.root / "c")
    area.drain()
    assert area.objects() == {**COLD, "a": b"content of b", "b": b"content of c", "c": b"content of a"}


def test_chain_of_renames(area: Area) -> None:
    (area.root / "c").rename(area.root / "e")
    (area.root / "b").rename(area.root / "c")
    (area.root / "a").rename(area.root / "b")
    area.drain()
    assert area.objects() == {**without("a"), "b": b"content of a", "c": b"content of b", "e": b"content of c"}


def test_rename_there_and_back_changes_nothing(area: Area) -> None:
    (area.root / "a").rename(area.root / "t")
    (area.root / "t").rename(area.root / "a")
    area.drain()
    assert area.objects() == COLD
    assert (area.root / "a").read_bytes() == b"content of a"


def test_deleted_and_created_anew(area: Area) -> None:
    (area.root / "a").unlink()
    (area.root / "a").write_bytes(b"another a")
    area.drain()
    assert area.objects() == {**COLD, "a": b"another a"}


def test_written_and_renamed_before_it_was_exported(area: Area) -> None:
    """The way editors and many tools save a file."""
    (area.root / "a.tmp").write_bytes(b"saved")
    (area.root / "a.tmp").rename(area.root / "a")
    area.drain()
    assert area.objects() == {**COLD, "a": b"saved"}


def test_rename_across_associations(area: Area) -> None:
    mark = area.proxy.mark()
    (area.root / "big").rename(area.other / "big")
    (area.root / "d").rename(area.other / "d")
    area.drain()
    assert area.proxy.content_gets(mark) == []
    assert area.objects() == without("big", "d/x", "d/sub/y")
    found = {path: body for path, body in area.objects("two").items() if not path.endswith("/")}
    assert found == {"big": BIG, "d/x": b"x in d", "d/sub/y": b"y in sub"}
    assert (area.other / "big").read_bytes() == BIG


def test_move_out_of_every_association_keeps_the_content(area: Area) -> None:
    (area.root / "big").rename(area.local / "big")
    (area.root / "d").rename(area.local / "d")
    area.drain()
    assert area.objects() == without("big", "d/x", "d/sub/y")
    assert (area.local / "big").read_bytes() == BIG
    assert (area.local / "d/sub/y").read_bytes() == b"y in sub"


def test_move_into_an_association_exports(area: Area) -> None:
    (area.local / "made").mkdir()
    (area.local / "made/file").write_bytes(b"made outside")
    (area.local / "made").rename(area.root / "made")
    area.drain()
    assert area.objects() == {**COLD, "made/": b"", "made/file": b"made outside"}


def test_files_outside_associations_are_never_exported(area: Area) -> None:
    mark = area.proxy.mark()
    (area.local / "file").write_bytes(b"scratch")
    area.drain()
    assert area.proxy.changes(mark) == []
    assert (area.local / "file").read_bytes() == b"scratch"


def test_unlink_and_rmdir(area: Area) -> None:
    (area.root / "a").unlink()
    with pytest.raises(OSError) as caught:
        (area.root / "d").rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    shutil.rmtree(area.root / "d")
    area.drain()
    assert area.objects() == without("a", "d/x", "d/sub/y")


def test_open_file_stays_usable_after_unlink(area: Area) -> None:
    with open(area.root / "big", "rb") as file:
        (area.root / "big").unlink()
        assert file.read() == BIG
    with open(area.root / "gone", "w+b") as file:
        (area.root / "gone").unlink()
        file.write(b"never exported")
        file.seek(0)
        assert file.read() == b"never exported"
    area.drain()
    assert area.objects() == without("big")


def test_directories_and_symlinks_have_objects(area: Area) -> None:
    (area.root / "dir/deeper").mkdir(parents=True)
    (area.root / "link").symlink_to("../somewhere/else")
    area.drain()
    assert area.objects() == {**COLD, "dir/": b"", "dir/deeper/": b"", "link": b"../somewhere/else"}
    assert area.site.head(area.key("link"))["Metadata"]["file-permissions"] == "0120777"
    assert area.site.head(area.key("dir/"))["Metadata"]["file-permissions"] == "040755"
    assert os.readlink(area.root / "link") == "../somewhere/else"
    (area.root / "dir/deeper").rmdir()
    (area.root / "link").unlink()
    area.drain()
    assert area.objects() == {**COLD, "dir/": b""}


def test_each_hard_link_is_an_object(area: Area) -> None:
    os.link(area.root / "a", area.root / "a2")
    (area.root / "fresh").write_bytes(b"one")
    os.link(area.root / "fresh", area.root / "d/fresh2")
    area.drain()
    assert area.objects() == {**COLD, "a2": b"content of a", "fresh": b"one", "d/fresh2": b"one"}
    assert (area.root / "a").stat().st_nlink == 2
    (area.root / "d/fresh2").write_bytes(b"changed through the other name")
    area.drain()
    changed = b"changed through the other name"
    assert (area.root / "fresh").read_bytes() == changed
    assert area.objects() == {**COLD, "a2": b"content of a", "fresh": changed, "d/fresh2": changed}
    (area.root / "fresh").unlink()
    (area.root / "a").unlink()
    area.drain()
    assert area.objects() == {**without("a"), "a2": b"content of a", "d/fresh2": changed}
    assert (area.root / "a2").read_bytes() == b"content of a"


def test_a_renamed_file_brings_its_attributes_where_its_bytes_are_already(area: Area) -> None:
    (area.root / "empty").touch()
    (area.root / "empty").chmod(0o440)
    area.drain()
    area.site.put(area.key("taken"), b"", Metadata={"file-permissions": "0100600"})
    os.rename(area.root / "empty", area.root / "taken")
    area.drain()
    assert area.site.head(area.key("taken"))["Metadata"]["file-permissions"] == "0100440"


def test_moved_symlink_of_two_names_has_two_objects(area: Area) -> None:
    area.site.put(area.key("link"), b"target", Metadata={"file-permissions": "0120777"})
    area.site.cli("refresh", area.root)
    os.rename(area.root / "link", area.root / "moved")
    os.link(area.root / "moved", area.root / "other", follow_symlinks=False)
    area.drain()
    assert os.readlink(area.root / "other") == "target"
    assert area.objects() == {**COLD, "moved": b"target", "other": b"target"}


def test_names_of_every_kind_survive(area: Area) -> None:
    names = ["with space", "plus+and%25", "ünïcødé", "quote'\"&<>", "#?=;", ".hidden", "x" * 255]
    if area.site.server.kind != "moto":  # which answers 404 to such a PUT
        names.append("new\nline")
    for name in names:
        (area.root / name).write_bytes(name.encode())
    area.drain()
    assert area.objects() == {**COLD, **{name: name.encode() for name in names}}


# --- attributes -------------------------------------------------------------------------------------------------------------


def test_chmod_and_chown_of_a_cold_file_are_copies(area: Area) -> None:
    mark = area.proxy.mark()
    os.chmod(area.root / "big", 0o600)
    os.chown(area.root / "big", 1234, 5678)
    area.drain()
    assert area.proxy.content_gets(mark) == []
    assert area.proxy.uploads(mark) == []
    metadata = area.site.head(area.key("big"))["Metadata"]
    assert (metadata["file-permissions"], metadata["file-owner"], metadata["file-group"]) == ("0100600", "1234", "5678")
    assert area.objects() == COLD
    assert (area.root / "big").read_bytes() == BIG


def test_times_alone_export_nothing(area: Area) -> None:
    mark = area.proxy.mark()
    os.utime(area.root / "a", ns=(10**18, 10**18 + 5))
    area.drain()
    assert area.proxy.changes(mark) == []
    assert (area.root / "a").stat().st_mtime_ns == 10**18 + 5
    os.chmod(area.root / "a", 0o600)
    area.drain()
    assert area.site.head(area.key("a"))["Metadata"]["file-mtime"] == f"{10**18 + 5}ns"


def test_extended_attributes(area: Area) -> None:
    for path in (area.root / "a", area.root / "d", area.local):
        os.setxattr(path, "user.colour", b"red")
        os.setxattr(path, "user.empty", b"")
        assert os.getxattr(path, "user.colour") == b"red"
        assert sorted(os.listxattr(path)) == ["user.colour", "user.empty"]
        os.removexattr(path, "user.colour")
        with pytest.raises(OSError) as caught:
            os.getxattr(path, "user.colour")
        assert caught.value.errno == errno.ENODATA
    area.drain()
    assert area.objects() == COLD


@pytest.mark.parametrize("change", ["rewrite", "append", "chmod", "rename"])
def test_what_others_attached_to_an_object_survives(area: Area, change: str) -> None:
    site, key = area.site, area.key("a")
    foreign = {"Metadata": {"colour": "blue"}, "ContentType": "application/x-special", "CacheControl": "no-cache"}
    if site.server.kind == "moto":
        foreign["StorageClass"] = "STANDARD_IA"
    # Same bytes, so that the ETag the import saw stays.
    site.put(key, COLD["a"], Tagging="team=genomics", **foreign)
    path = area.root / "a"
    if change == "rewrite":
        path.write_bytes(b"entirely new")
    elif change == "append":
        with open(path, "ab") as file:
            file.write(b"+")
    elif change == "chmod":
        path.chmod(0o600)
    else:
        path = path.rename(area.root / "a-renamed")
    area.drain()
    key = area.key(path.name)
    head = site.head(key)
    assert site.body(key) == path.read_bytes()
    assert head["Metadata"]["colour"] == "blue" and "file-permissions" in head["Metadata"]
    assert head["ContentType"] == "application/x-special" and head["CacheControl"] == "no-cache"
    assert head.get("StorageClass", "STANDARD") == foreign.get("StorageClass", "STANDARD")
    assert site.s3.get_object_tagging(Bucket=site.bucket, Key=key)["TagSet"] == [{"Key": "team", "Value": "genomics"}]


def test_device_nodes_and_fifos_stay_local(area: Area) -> None:
    os.mkfifo(area.root / "pipe")
    area.drain()
    assert stat.S_ISFIFO((area.root / "pipe").stat().st_mode)
    assert area.objects() == COLD


# --- conflicts --------------------------------------------------------------------------------------------------------------


def conflict_copy(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"{name}.conflict-*")
    return found


@pytest.mark.parametrize("change", ["rewrite", "append", "chmod", "create"])
def test_neither_side_of_a_conflict_is_lost(area: Area, change: str) -> None:
    area.site.expected_log += ["conflict (ino|kept)", "export failed", "object changed"]
    name = "new" if change == "create" else "a"
    path = area.root / name
    if change == "append":
        assert path.read_bytes() == COLD["a"]
    area.site.put(area.key(name), b"theirs, and longer")
    if change == "chmod":
        path.chmod(0o600)
    else:
        with open(path, "ab" if change == "append" else "wb") as file:
            file.write(b" ours")
    area.drain()
    objects = area.objects()
    assert objects[name] == b"theirs, and longer"
    assert path.read_bytes() == b"theirs, and longer"
    if change == "chmod":
        return
    kept = conflict_copy(area.root, name)
    ours = COLD["a"] + b" ours" if change == "append" else b" ours"
    assert kept.read_bytes() == ours
    assert objects[kept.name] == ours
    others = {path: body for path, body in objects.items() if path not in (name, kept.name)}
    assert others == without("a") if name == "a" else others == COLD


def test_new_attributes_of_a_file_whose_object_is_gone_fail_and_say_so(area: Area) -> None:
    area.site.expected_log.append("export failed .*object this file came from was changed or removed")
    area.site.s3.delete_object(Bucket=area.site.bucket, Key=area.key("b"))
    (area.root / "b").chmod(0o600)
    done = area.site.try_drain(area.root)
    assert done.returncode == 1
    assert "[S3ObjectNotFound]" in done.stderr and "/b" in done.stderr
    assert "gone" in str(area.about("b")["remedy"]) or "removed" in str(area.about("b")["remedy"])
    (area.root / "b").unlink()
    area.drain()


def test_half_of_a_replaced_object_is_never_mixed_with_local_writes(area: Area) -> None:
    """One block was overwritten here, the others were never fetched and are gone: no object may be made of that."""
    area.site.expected_log += ["export failed .*not all of the file was local", "errno=ESTALE"]
    theirs = b"?" * len(BIG)
    with open(area.root / "big", "r+b") as file:
        file.write(b"#")
        file.flush()
        area.site.put(area.key("big"), theirs)
    done = area.site.try_drain(area.root)
    assert done.returncode == 1, done.stderr
    assert area.objects()["big"] == theirs
    (area.root / "big").unlink()
    area.site.expected_log.append("delete given up")
    area.drain()
    assert area.objects()["big"] == theirs


def test_many_circles_at_once_never_mix_contents(make_site: Callable[..., Site]) -> None:
    """Each copy reads a key that another export is about to overwrite; moto has no condition on the source of a copy."""
    here = make_site()
    put_objects(here.server, here.bucket, [(f"p/{n}/{name}", name.encode(), {}) for n in range(40) for name in "abcd"], threads=4)
    here.mount()
    for number in range(40):
        folder = here.root / str(number)
        for old, new in ("at", "ba", "cb", "dc", "td"):
            (folder / old).rename(folder / new)
        if number % 8 == 7:
            here.drain()
    assert here.objects() == {
        f"p/{n}/{name}": body for n in range(40) for name, body in zip("abcd", (b"b", b"c", b"d", b"a"), strict=True)
    }
    assert here.status()["conflicts"] == 0


def test_a_cold_file_moved_to_the_same_key_of_another_bucket_replaces_one_deleted_there(here: Site) -> None:
    here.expected_log.append("conflict kept kind=deleted-there")
    other = fresh_bucket(here.server)
    for bucket, body in ((here.bucket, b"moved"), (other, b"replaced")):
        here.s3.put_object(Bucket=bucket, Key="p/k", Body=body)
    links = (f'[[dra]]\nfile_system_path = "/{b}"\ndata_repository_path = "s3://{b}/p/"\n' for b in (here.bucket, other))
    path = here.scratch / "two-buckets.toml"
    path.write_text("\n".join(links))
    here.source = str(path)
    here.mount()
    (here.root / other / "k").stat()
    here.s3.delete_object(Bucket=other, Key="p/k")
    (here.root / here.bucket / "k").rename(here.root / other / "k")
    here.drain()
    assert here.s3.get_object(Bucket=other, Key="p/k")["Body"].read() == b"moved"
    assert here.keys() == []
