"""`fsck --repair` after each kind of damage, on a real mount: what comes back, what is told to be lost, and what then mounts, reads
and drains."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from s3lustrefs.meta.schema import Table
from tests.mount.site import Site

MIB = 1 << 20
BODY = bytes(range(256)) * 14_000
"""Four blocks of residency, the last one short."""


@pytest.fixture
def filled(make_site: Callable[..., Site]) -> Site:
    """Mounted: `archived` is in the bucket and resident."""
    site = make_site()
    site.mount()
    (site.root / "archived").write_bytes(BODY)
    site.drain()
    return site


def chunk(site: Site, name: str) -> Path:
    """The one chunk file of a file. To be asked while it is mounted."""
    ino = (site.root / name).stat().st_ino
    (found,) = (site.state_dir / "data" / "chunks").glob(f"*/{ino:x}.*")
    return found


def fsck(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    return site.cli("fsck", *arguments, site.state_dir, check=False)


def repaired(site: Site, status: int) -> str:
    """What `fsck --repair` says. Before it, plain fsck finds the damage and changes nothing; after it, all is clean."""
    before = digest(site.state_dir)
    assert fsck(site).returncode == 4
    assert digest(site.state_dir) == before
    done = fsck(site, "--repair")
    assert done.returncode == status, (done.stdout, done.stderr)
    again = fsck(site)
    assert again.returncode == 0, again.stdout
    return done.stdout


def digest(state_dir: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in state_dir.rglob("*") if p.is_file()}


def settle(site: Site, expected: dict[str, bytes]) -> None:
    """Mount and bucket hold exactly this."""
    site.wait_imported()
    assert {str(p.relative_to(site.root)): p.read_bytes() for p in site.root.rglob("*") if p.is_file()} == expected
    site.drain()
    assert {key.removeprefix("p/"): body for key, body in site.objects().items() if not key.endswith("/")} == expected


@pytest.mark.parametrize("left", [None, 0, MIB + 5])
@pytest.mark.one_in(3)
def test_missing_content_that_the_bucket_has_is_fetched_again(filled: Site, left: int | None) -> None:
    file = chunk(filled, "archived")
    filled.unmount()
    file.unlink() if left is None else subprocess.run(["truncate", "-s", str(left), file], check=True)
    assert f"repaired: /archived: {len(BODY) - (left or 0)} of {len(BODY)} bytes are not on disk" in repaired(filled, 1)
    settle(filled.mount(), {"archived": BODY})


def test_content_that_only_the_lost_file_had_is_told_and_never_made_up(filled: Site) -> None:
    filled.expected_log += ["ContentLost|these bytes are gone", "export failed"]
    (filled.root / "fresh").write_bytes(BODY)
    file = chunk(filled, "fresh")
    filled.unmount()
    if "p/fresh" in filled.keys():
        pytest.skip("it was exported already")
    subprocess.run(["truncate", "-s", str(MIB + 5), file], check=True)
    assert "lost: /fresh:" in repaired(filled, 4)
    filled.mount()
    with (filled.root / "fresh").open("rb", buffering=0) as stream:
        assert stream.read(MIB) == BODY[:MIB]
        with pytest.raises(OSError, match="Errno 5"):
            stream.read(MIB)
    assert any("these bytes are gone" in line for line in filled.why("fresh")["lines"])
    assert filled.try_drain().returncode == 1
    assert "p/fresh" not in filled.keys()
    (filled.root / "fresh").unlink()
    settle(filled, {"archived": BODY})


def test_a_damaged_file_that_is_cut_to_what_is_left_is_sound_again(filled: Site) -> None:
    filled.expected_log += ["ContentLost|these bytes are gone", "export failed"]
    (filled.root / "fresh").write_bytes(BODY)
    file = chunk(filled, "fresh")
    filled.unmount()
    if "p/fresh" in filled.keys():
        pytest.skip("it was exported already")
    subprocess.run(["truncate", "-s", str(MIB), file], check=True)
    repaired(filled, 4)
    filled.mount()
    subprocess.run(["truncate", "-s", str(MIB), filled.root / "fresh"], check=True)
    settle(filled, {"archived": BODY, "fresh": BODY[:MIB]})


def test_changes_that_are_gone_give_way_to_the_version_in_the_bucket(filled: Site) -> None:
    file = chunk(filled, "archived")
    with (filled.root / "archived").open("rb+") as stream:
        stream.write(b"changed here")
    filled.kill_daemon()
    file.unlink()
    assert filled.body("p/archived") == BODY, "the change was exported already"
    assert "lost: /archived:" in repaired(filled, 4)
    settle(filled.mount(), {"archived": BODY})


def test_a_hole_is_no_damage(filled: Site) -> None:
    subprocess.run(["truncate", "-s", "3M", filled.root / "hole"], check=True)
    with (filled.root / "late").open("wb") as stream:
        stream.seek(2 * MIB)
        stream.write(b"x")
    filled.drain()
    filled.unmount()
    assert fsck(filled).returncode == 0


def test_a_log_cut_short_loses_names_and_keeps_their_content(filled: Site) -> None:
    subprocess.run(["sync", filled.root / "archived"], check=True)
    (filled.root / "fresh").write_bytes(BODY)
    filled.kill_daemon()
    (log,) = (path for path in sorted((filled.state_dir / "meta").glob("log.*")) if path.stat().st_size)
    whole = log.read_bytes()
    log.write_bytes(whole[: whole.index(b"fresh") - 30])
    said = repaired(filled, 4)
    kept = next(Path(line.rpartition(" ")[2]) for line in said.splitlines() if "its name is lost" in line)
    assert kept.read_bytes() == BODY
    settle(filled.mount(), {"archived": BODY})


def test_a_damaged_log_is_not_mounted_until_it_is_repaired(filled: Site) -> None:
    filled.expected_log.append("is damaged")
    (filled.root / "fresh").write_bytes(BODY)
    (filled.root / "later").write_bytes(BODY)
    filled.kill_daemon()
    (log,) = (path for path in sorted((filled.state_dir / "meta").glob("log.*")) if path.stat().st_size)
    log.write_bytes(log.read_bytes().replace(b"fresh", b"FRESH", 1))
    assert "fsck --repair" in filled.try_mount().stderr
    assert "is damaged: changes from there on are lost" in repaired(filled, 4)
    filled.mount()
    filled.wait_imported()
    assert (filled.root / "archived").read_bytes() == BODY
    filled.drain()


def test_a_table_from_a_back_up_is_brought_up_to_date_by_the_bucket(filled: Site) -> None:
    (filled.root / "gone").write_bytes(b"to be deleted")
    (filled.root / "old").write_bytes(b"old content")
    filled.drain()
    filled.unmount()
    shutil.copytree(filled.state_dir / "meta", filled.scratch / "backup")
    filled.mount()
    (filled.root / "gone").unlink()
    (filled.root / "old").write_bytes(b"new content")
    (filled.root / "new").write_bytes(BODY)
    filled.drain()
    (filled.root / "unsent").write_bytes(b"only here")
    filled.unmount()
    sent = "p/unsent" in filled.keys()
    shutil.rmtree(filled.state_dir / "meta")
    shutil.copytree(filled.scratch / "backup", filled.state_dir / "meta")
    said = repaired(filled, 4)
    assert said.count("its name is lost") >= 2
    filled.mount()
    filled.wait_imported()
    assert (filled.root / "old").read_bytes() == b"new content"
    assert (filled.root / "new").read_bytes() == BODY and (filled.root / "archived").read_bytes() == BODY
    kept = [path.read_bytes() for path in (filled.state_dir / "data" / "lost+found").iterdir()]
    assert sent or b"only here" in kept
    if (filled.root / "gone").exists():
        (filled.root / "gone").unlink()
    filled.drain()
    assert filled.body("p/new") == BODY and "p/gone" not in filled.keys()


def test_a_lost_target_is_replaced_and_its_content_fetched_again(make_site: Callable[..., Site]) -> None:
    site = make_site(imported_file_chunk_size="1")
    site.options["cache_dir"] = f"{site.scratch}/one:{site.scratch}/two"
    site.expected_log.append("storage target")
    site.mount()
    (site.root / "archived").write_bytes(BODY)
    subprocess.run(["truncate", "-s", "3M", site.root / "hole"], check=True)
    site.drain()
    site.unmount()
    shutil.rmtree(site.scratch / "two")
    assert site.try_mount().returncode != 0
    said = repaired(site, 1)
    assert "marked as storage target 2" in said and "/archived:" in said and "/hole:" in said
    settle(site.mount(), {"archived": BODY, "hole": bytes(3 * MIB)})


def test_a_record_that_is_gone_comes_back_from_the_bucket(filled: Site) -> None:
    ino = (filled.root / "archived").stat().st_ino
    filled.unmount()
    with lmdb.open(str(filled.state_dir / "meta"), max_dbs=len(Table)) as environment:
        table = environment.open_db(b"inodes", create=False)
        with environment.begin(write=True) as txn:
            assert txn.delete(ino.to_bytes(8, "big"), db=table)
    assert "/archived: name removed: its inode is not there" in repaired(filled, 1)
    settle(filled.mount(), {"archived": BODY})


def test_fsck_of_a_mounted_file_system_is_refused(filled: Site) -> None:
    for arguments in ((), ("--repair",)):
        done = fsck(filled, *arguments)
        assert done.returncode == 8 and "in use" in done.stderr
