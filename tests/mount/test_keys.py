"""What the README's table of troublesome keys says: each row names a case, and each case is tried on both servers in three ways:
found in the bucket by the import, found by a later look, made by a user on the mount. Beside them, what becomes of two
that cannot both show when one of them comes or goes.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench import servers
from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.draining import poll
from tests.mount.conftest import fresh_bucket
from tests.mount.site import WAIT_SECONDS, Site, site, two_associations
from tests.semantics.mounted import put_objects
from tests.servers import S3Server

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
LONGEST_KEY = 1024
DEEP = 1100
"""Directories; the interpreter allows 1,000 calls within calls."""
NFC, NFD = (unicodedata.normalize(form, "Ärger é") for form in ("NFC", "NFD"))
CONTROL = [f"{chr(code)}x" for code in (9, 13, 27, 127)]
NEWLINE = ["\nx", "end\n", "n\nd/x", "a: fine\nb"]
SIGNS = [" ", "a b ", "q?#&=+%41%", "\\back", "'\"`$*", "<&>", "-rf", "~"]
EMPTY, DOT = "empty path component", "'.' or '..' component"
IN_THE_WAY = "a file that is open, changed here or has other names has the name of its directory"
COVERED = "a directory of this name exists"


@dataclass(frozen=True)
class Case:
    """One row. Paths are relative to a directory of the case's own; those of directories end in `/`."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """What others put into the bucket."""
    hidden: dict[str, str] = field(default_factory=dict)
    """Which of them do not show, and what is said about each."""
    made: tuple[str, ...] = ()
    """What a user makes."""
    refused: dict[str, int] = field(default_factory=dict)
    """What a user cannot make."""
    local: dict[str, str] = field(default_factory=dict)
    """Which of `made` stay local, and what is said about each."""


def plain(*paths: str) -> Case:
    """Nothing is special about these."""
    return Case({path: path.encode() for path in paths}, made=paths)


def sized(length: int, name: str) -> str:
    """A path of so many bytes that ends in `name`."""
    rest = length - len(name)
    parts = rest // 200 + 1
    return "".join("n" * (rest // parts + (n < rest % parts) - 1) + "/" for n in range(parts)) + name


def cases(base: int) -> dict[str, Case]:
    """All rows; `base` is the length of the key of the case's directory."""
    odd = ["x//y", "/lead", "./y", "x/./y", "../y", "x/../y", "..", ".", "x/..", "t//", "../../../etc/x"]
    longest = [sized(LONGEST_KEY - base, name) for name in ("one", "two")]
    longer = [sized(LONGEST_KEY + 1 - base, name) for name in ("three", "four/")]
    return {
        "file-beside-directory": Case(
            {"a": b"file", "a/b": b"in it", "l/m": b"in it", "l": b"file", "e": b"file", "e/": b"", "z": b"z"},
            {"a": COVERED, "l": COVERED, "e": COVERED},
        ),
        "directory-with-content": Case(
            {"a/": b"content", "b/": b"content", "b/c": b"c", "d/": b""}, {"a/": "it has content", "b/": "it has content"}
        ),
        "no-components": Case(
            {**dict.fromkeys(odd, b"x"), "x/.hidden": b"h", "...": b"d"},
            {key: EMPTY if "//" in key or key[0] == "/" else DOT for key in odd},
            made=("x/.hidden", "..."),
        ),
        "long-components": Case(
            {"n" * 255: b"fits", "n" * 256: b"long", "d" * 300 + "/x": b"x", "ü" * 127 + "n": b"fits", "ü" * 128: b"long"},
            {"n" * 256: "256 bytes", "d" * 300 + "/x": "300 bytes", "ü" * 128: "256 bytes"},
            made=("n" * 255, "ü" * 127 + "n"),
            refused={"n" * 256: errno.ENAMETOOLONG, "ü" * 128: errno.ENAMETOOLONG},
        ),
        "longest-keys": plain(*longest),
        "longer-keys": Case(made=(*longer, "short"), local=dict.fromkeys(longer, "1025 bytes")),
        "normalisation": plain(NFC, NFD, f"{NFC}-d/x", f"{NFD}-d/x"),
        "control-characters": plain(*CONTROL),
        "newline": plain(*NEWLINE),
        "signs": plain(*SIGNS),
        "case": plain("a", "A", "d/x", "D/x"),
        "not-utf-8": Case(
            made=("plain", "\udcff\udcfe", "d\udcff/x"), local=dict.fromkeys(("\udcff\udcfe", "d\udcff/", "d\udcff/x"), "UTF-8")
        ),
        "deep": plain("/".join(["d"] * 200 + ["file"])),
    }


NAMES = sorted(cases(0))
NOT_ON_MOTO = {"newline"}
"""Its web server refuses such keys."""


@dataclass(frozen=True)
class Place:
    """A directory with its key in the mount that all cases share."""

    site: Site
    name: str

    @property
    def root(self) -> Path:
        return self.site.root / self.name

    @property
    def key(self) -> str:
        return f"p/{self.name}/"

    def can_have(self, name: str) -> bool:
        return self.site.server.kind != "moto" or name not in NOT_ON_MOTO

    def case(self, name: str) -> Case:
        if not self.can_have(name):
            pytest.skip("not on moto")
        return cases(len(self.key))[name]

    def put(self, key: str, body: bytes) -> None:
        self.site.put(self.key + key, body)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.site.s3.delete_object(Bucket=self.site.bucket, Key=self.key + key)

    def ask(self, operation: str, **request: Any) -> dict[str, Any]:
        """Without the half second that a command takes to start."""
        return ControlClient(str(self.site.state_dir / "control.sock")).call(operation, **request)

    def refresh(self) -> None:
        self.ask("Refresh", path=f"/{self.name}".rstrip("/"))

    def why(self, path: str) -> str:
        return "\n".join(self.ask("Why", path=f"/{self.name}/{path.rstrip('/')}")["lines"])

    def drain(self) -> dict[str, str]:
        """What stays here, and why."""
        late, remaining, failed = poll(self.site.client(), [f"/{self.name}"], timeout=WAIT_SECONDS, progress=lambda *_: None)
        assert not late, remaining
        return {each["path"].removeprefix(f"/{self.name}/"): each["error"] for each in failed}

    def objects(self) -> dict[str, bytes]:
        return {key.removeprefix(self.key): body for key, body in self.site.objects(self.key).items() if key != self.key}

    def names(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root):
            above = os.path.relpath(folder, self.root).removeprefix(".")
            above = above and above + "/"
            yield from (f"{above}{name}/" for name in folders)
            yield from (above + name for name in files)

    def tree(self) -> dict[str, bytes]:
        return {name: b"" if name.endswith("/") else Path(f"{self.root}/{name}").read_bytes() for name in self.names()}

    def skipped(self) -> dict[str, str]:
        answer = self.ask("Skipped")["skipped"]
        return {item["key"].removeprefix(self.key): item["reason"] for item in answer if item["key"].startswith(self.key)}


def with_parents(paths: dict[str, bytes]) -> dict[str, bytes]:
    """And the directories they are in."""
    parents = {"/".join(path.split("/")[:n]) + "/": b"" for path in paths for n in range(1, path.count("/") + 1)}
    return {**parents, **{path: body for path, body in paths.items() if not path.endswith("/")}}


@dataclass
class Seen:
    """One mount with a directory for each case and way, and what it was like at moments that have passed."""

    site: Site
    imported: dict[str, dict[str, bytes]] = field(default_factory=dict)
    skipped_at_import: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    def places(self, way: str) -> Iterator[tuple[Place, Case]]:
        for name in NAMES:
            place = Place(self.site, f"{way}-{name}")
            if place.can_have(name):
                yield place, place.case(name)

    def put(self, *ways: str) -> None:
        chosen = [found for way in ways for found in self.places(way)]
        objects = [(place.key + key, body, {}) for place, case in chosen for key, body in case.objects.items()]
        put_objects(self.site.server, self.site.bucket, objects)


@pytest.fixture(scope="module", params=["moto", pytest.param("rgw", marks=pytest.mark.rgw)])
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Everything that takes long is done once for all cases."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    with site(server, fresh_bucket(server)) as here:
        here.expected_log.append("export failed .*(UTF-8|1025 bytes|waits for)|conflict")
        found = Seen(here)
        found.put("import", "gone")
        here.mount()
        for place, _ in found.places("import"):
            found.imported[place.name], found.skipped_at_import[place.name] = place.tree(), place.skipped()
        made = [*found.places("made"), *found.places("move")]
        for place, case in made:
            make(place, case)
        for place, _ in made:
            found.failed[place.name] = place.drain()
        found.put("later")
        for place, case in found.places("gone"):
            place.delete(*case.objects)
        everything = Place(here, "")
        everything.refresh()
        everything.refresh()
        yield found
        here.unmount()
        here.cli("fsck", here.state_dir)


def make(place: Place, case: Case) -> None:
    place.root.mkdir()
    for path in case.made:
        target = f"{place.root}/{path}"
        os.makedirs(target if path.endswith("/") else os.path.dirname(target), exist_ok=True)
        if not path.endswith("/"):
            Path(target).write_bytes(content_of(path))


def content_of(path: str) -> bytes:
    return path.encode(errors="surrogateescape")


# --- the table ------------------------------------------------------------------------------------------------------------


def test_each_row_of_the_table_is_a_case_and_each_case_a_row() -> None:
    table = README.partition("### Keys that make trouble")[2].partition("\n#")[0]
    rows = [line.strip("|").split("|")[-1] for line in table.splitlines() if line.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert set(named) == {*NAMES, "crowd"}


@pytest.mark.parametrize("name", NAMES)
def test_found_by_the_import(seen: Seen, name: str) -> None:
    place = Place(seen.site, f"import-{name}")
    case = place.case(name)
    check_shown(case, seen.imported[place.name], seen.skipped_at_import[place.name])
    check_shown(case, place.tree(), place.skipped())
    for key, words in case.hidden.items():
        if words not in (EMPTY, DOT):  # what can be given as a path
            assert f"{place.key}{key} is not shown: " in place.why(key)
    assert place.objects() == case.objects


@pytest.mark.parametrize("name", NAMES)
def test_found_later(seen: Seen, name: str) -> None:
    place = Place(seen.site, f"later-{name}")
    check_shown(place.case(name), place.tree(), place.skipped())


def check_shown(case: Case, tree: dict[str, bytes], skipped: dict[str, str]) -> None:
    """What can be a file is one, with its content; all the rest is listed with the reason."""
    shown = [key for key in case.objects if key not in case.hidden or (key.endswith("/") and "//" not in key)]
    assert tree == with_parents({key: case.objects[key] for key in shown})
    assert skipped.keys() == case.hidden.keys()
    assert all(words in skipped[key] for key, words in case.hidden.items())


@pytest.mark.parametrize("name", NAMES)
def test_gone_later(seen: Seen, name: str) -> None:
    """Only directories stay that never had an object: as a local directory, they stay when they become empty."""
    place = Place(seen.site, f"gone-{name}")
    shown = [key for key in place.case(name).objects if key not in place.case(name).hidden]
    marked = [key for key in place.case(name).objects if key.endswith("/")]
    left = {path for path in with_parents(dict.fromkeys(shown, b"")) if path.endswith("/") and path not in marked}
    if not place.case(name).objects:
        return
    assert set(place.tree()) == left
    assert place.skipped() == {}


@pytest.mark.parametrize("name", NAMES)
def test_made_here(seen: Seen, name: str) -> None:
    place = Place(seen.site, f"made-{name}")
    case = place.case(name)
    for path, expected in case.refused.items():
        for create in (os.mkdir, lambda target: open(target, "wb")):
            with pytest.raises(OSError) as caught:
                create(f"{place.root}/{path}")
            assert caught.value.errno == expected
    made = with_parents({path: content_of(path) for path in case.made})
    assert place.tree() == made
    assert place.objects() == {path: body for path, body in made.items() if path not in case.local}
    failed = seen.failed[place.name]
    assert failed.keys() == {content_of(path).rstrip(b"/").decode(errors="replace") for path in case.local}
    for path, words in case.local.items():
        assert words in place.why(path)


@pytest.mark.parametrize("name", NAMES)
def test_moved_and_removed_here(seen: Seen, name: str) -> None:
    """Copied and deleted in the bucket. The new name is as long as the old one, so that as many keys are too long."""
    old, new = Place(seen.site, f"move-{name}"), Place(seen.site, f"else-{name}")
    case = old.case(name)
    made = with_parents({path: content_of(path) for path in case.made})
    old.root.rename(new.root)
    assert new.drain().keys() == {content_of(path).rstrip(b"/").decode(errors="replace") for path in case.local}
    assert not [path for path in Place(seen.site, "").drain() if path.startswith(f"/{old.name}")]
    assert old.objects() == {} and new.tree() == made
    assert new.objects() == {path: body for path, body in made.items() if path not in case.local}
    shutil.rmtree(new.root)
    assert not [path for path in Place(seen.site, "").drain() if path.startswith(f"/{new.name}")]
    assert new.objects() == {}


def test_hidden_keys_are_counted_and_listed_one_to_a_line(seen: Seen) -> None:
    """A name is no order to the terminal, and no second line."""
    here = seen.site
    here.put("p/pairs//\x1b[2J\rp/fine: fine", b"x")
    Place(here, "").refresh()
    lines = here.cli("status", here.root, "--skipped").stdout.splitlines()
    assert r"p/pairs//\x1b[2J\rp/fine: fine: has an empty path component" in lines
    assert len(lines) == here.status()["associations"][0]["import"]["skipped"]
    assert f"{len(lines)} skipped (--skipped lists them)" in here.cli("status", here.root).stdout
    why = here.cli("why", here.root / "later-control-characters/\x1bx").stdout
    assert r"/later-control-characters/\x1bx: file" in why and "\x1b" not in why


# --- two of one name ------------------------------------------------------------------------------------------------------

Story = Iterator[None]
"""Goes on after a refresh of the whole mount at each `yield`: all stories together cost as many as the longest."""


def test_pairs_come_and_go(seen: Seen) -> None:
    """Nothing that comes, goes or is deleted under one name ever touches the other's object."""
    tellers: list[Callable[[Place], Story]] = [
        directory_comes_and_is_removed_here, directory_comes_and_goes_in_the_bucket, object_comes_behind_a_directory_made_here,
        file_made_here_gives_way, file_with_changes_stays, hidden_object_is_never_overwritten, hidden_object_goes,
        special_files_stay, content_of_a_marker_stays, symlinks_become_files, kinds_in_turn, markers_go,
    ]  # fmt: skip
    stories = []
    for teller in tellers:
        place = Place(seen.site, teller.__name__)
        place.root.mkdir()
        stories.append(teller(place))
    while stories:
        stories = [story for story in stories if next(story, END) is not END]
        Place(seen.site, "").refresh()


END = object()


def directory_comes_and_is_removed_here(place: Place) -> Story:
    place.put("a", b"theirs")
    yield
    assert place.tree() == {"a": b"theirs"}
    place.put("a/b", b"in it")
    yield
    assert place.tree() == {"a/": b"", "a/b": b"in it"} and place.skipped() == {"a": COVERED}
    os.unlink(place.root / "a/b")
    os.rmdir(place.root / "a")
    assert place.drain() == {} and place.objects() == {"a": b"theirs"}
    yield
    assert place.tree() == {"a": b"theirs"} and place.skipped() == {} and place.why("a").count("not shown") == 0


def directory_comes_and_goes_in_the_bucket(place: Place) -> Story:
    place.put("a", b"theirs")
    yield
    place.put("a/", b"")
    place.put("a/b", b"in it")
    yield
    assert place.tree() == {"a/": b"", "a/b": b"in it"}
    place.delete("a/", "a/b")
    yield
    # In one sweep the directory is found gone after the file was found hidden: the next one shows it.
    yield
    assert place.tree() == {"a": b"theirs"} and place.skipped() == {}


def object_comes_behind_a_directory_made_here(place: Place) -> Story:
    (place.root / "a").mkdir()
    assert place.drain() == {}
    place.put("a", b"theirs")
    yield
    assert place.tree() == {"a/": b""} and place.skipped() == {"a": COVERED}
    (place.root / "a").rename(place.root / "moved")
    assert place.drain() == {} and place.objects() == {"a": b"theirs", "moved/": b""}
    yield
    assert place.tree() == {"a": b"theirs", "moved/": b""} and place.skipped() == {}


def file_made_here_gives_way(place: Place) -> Story:
    """Once it is in the bucket; there it stays."""
    (place.root / "a").write_bytes(b"ours")
    assert place.drain() == {}
    place.put("a/b", b"in it")
    with open(place.root / "a", "rb"):
        yield
        assert place.tree() == {"a": b"ours"} and place.skipped() == {"a/b": IN_THE_WAY}
    yield
    assert place.tree() == {"a/": b"", "a/b": b"in it"} and place.skipped() == {"a": COVERED}
    assert place.objects() == {"a": b"ours", "a/b": b"in it"}


def file_with_changes_stays(place: Place) -> Story:
    with open(place.root / "a", "wb") as file:
        file.write(b"ours")
        file.flush()
        place.put("a/b", b"in it")
        yield
        assert place.skipped() == {"a/b": IN_THE_WAY}
    assert place.drain() == {} and place.objects() == {"a": b"ours", "a/b": b"in it"}
    os.unlink(place.root / "a")
    assert place.drain() == {} and place.objects() == {"a/b": b"in it"}
    yield
    assert place.tree() == {"a/": b"", "a/b": b"in it"} and place.skipped() == {}


def hidden_object_is_never_overwritten(place: Place) -> Story:
    place.put("a", b"theirs")
    yield
    place.put("a/b", b"in it")
    yield
    os.unlink(place.root / "a/b")
    os.rmdir(place.root / "a")
    (place.root / "a").write_bytes(b"ours")
    assert place.drain() == {}
    assert place.tree()["a"] == b"theirs" and place.objects() == place.tree()
    assert sorted(place.tree().values()) == [b"ours", b"theirs"]
    yield
    assert place.skipped() == {}


def hidden_object_goes(place: Place) -> Story:
    place.put("a", b"theirs")
    place.put("a/b", b"in it")
    yield
    assert place.skipped() == {"a": COVERED}
    place.delete("a")
    yield
    assert place.skipped() == {} and place.tree() == {"a/": b"", "a/b": b"in it"}


def special_files_stay(place: Place) -> Story:
    """Nobody else has them."""
    os.mkfifo(place.root / "a")
    os.mkfifo(place.root / "b")
    place.put("a", b"theirs")
    place.put("b/c", b"theirs")
    yield
    assert sorted(os.listdir(place.root)) == ["a", "b"]
    assert place.skipped() == {"a": "a FIFO, socket or device of this name exists", "b/c": IN_THE_WAY}
    assert "is not shown" in place.why("a")
    os.unlink(place.root / "a")
    os.unlink(place.root / "b")
    yield
    assert place.tree() == {"a": b"theirs", "b/": b"", "b/c": b"theirs"} and place.skipped() == {}


def content_of_a_marker_stays(place: Place) -> Story:
    for name in ("changed/", "moved/", "removed/"):
        place.put(name, b"theirs")
    yield
    os.mkdir(place.root / "both")
    place.put("both/", b"theirs")
    os.chmod(place.root / "changed", 0o711)
    os.rename(place.root / "moved", place.root / "new")
    os.rmdir(place.root / "removed")
    assert place.drain() == {}
    kept = dict.fromkeys(("changed/", "moved/", "removed/", "both/"), b"theirs")
    assert place.objects() == {**kept, "new/": b""}
    assert place.site.head(place.key + "changed/")["Metadata"]["file-permissions"] == "040711"
    yield
    assert place.tree().keys() == {"changed/", "new/", "both/"} and place.skipped().keys() == kept.keys()
    assert place.objects() == {**kept, "new/": b""}


LINK = {"file-permissions": "0120777"}


def symlinks_become_files(place: Place) -> Story:
    place.site.put(place.key + "a", b"target", Metadata=LINK)
    place.site.put(place.key + "b", b"target", Metadata=LINK)
    place.put("c", b"file")
    yield
    assert os.readlink(place.root / "a") == "target" and os.path.isfile(place.root / "c")
    place.put("a", b"file now")
    place.site.put(place.key + "b", b"other", Metadata=LINK)
    place.site.put(place.key + "c", b"target", Metadata=LINK)
    yield
    assert (place.root / "a").read_bytes() == b"file now"
    assert os.readlink(place.root / "b") == "other" and os.readlink(place.root / "c") == "target"


def markers_go(place: Place) -> Story:
    """Whoever removed them, a lifecycle rule too: there is nothing to tell the ways apart by."""
    for key in ("empty/", "full/", "full/inside", "nest/", "nest/deeper/", "emptied/", "emptied/inside", "implied/inside"):
        place.put(key, b"")
    os.symlink("target", place.root / "made-here")
    (place.root / "keeps").mkdir()
    os.mkfifo(place.root / "keeps/fifo")
    assert place.drain() == {}
    yield
    place.delete("empty/", "full/", "nest/", "nest/deeper/", "emptied/", "emptied/inside", "implied/inside", "made-here", "keeps/")
    yield
    assert set(place.names()) == {"full/", "full/inside", "implied/", "keeps/", "keeps/fifo"}
    assert place.objects() == {"full/inside": b""}
    os.rmdir(place.root / "implied")
    os.unlink(place.root / "keeps/fifo")
    os.rmdir(place.root / "keeps")
    assert place.drain() == {} and place.objects() == {"full/inside": b""}


def kinds_in_turn(place: Place) -> Story:
    place.put("a", b"file")
    yield
    place.delete("a")
    place.put("a/", b"")
    yield
    yield
    assert place.tree() == {"a/": b""} and place.skipped() == {}
    place.delete("a/")
    place.put("a", b"file again")
    yield
    yield
    assert place.tree() == {"a": b"file again"} and place.skipped() == {}


# --- many -----------------------------------------------------------------------------------------------------------------


def test_crowd(tmp_path: Path) -> None:
    """100,000 keys in one directory: listed whole, each found by its name, and nothing is done to it twice."""
    count = 100_000
    with servers.stub("flat", count) as server, site(server, servers.BUCKET, "", options={"posix_metadata": "off"}) as here:
        here.mount()
        check_crowd(here, count)
        (skipped,) = Place(here, "").ask("Skipped")["skipped"]
        assert skipped["reason"] == "not UTF-8"
        here.unmount()


@pytest.mark.long
@pytest.mark.rgw
@pytest.mark.timeout(1800)
def test_crowd_in_a_real_bucket(rgw_server: S3Server, make_site: Callable[..., Site]) -> None:
    """The same keys where it takes minutes to put them; and others come and go among them."""
    count = 100_000
    here = make_site(server=rgw_server, import_interval="1h", posix_metadata="off")
    put_objects(rgw_server, here.bucket, [(f"p/flat/{number:06d}", b"%d" % number, {}) for number in range(count)], threads=4)
    here.mount()
    names = check_crowd(here, count)
    assert sorted(names) == [f"{number:06d}" for number in range(count)]
    assert [(here.root / f"flat/{number:06d}").read_bytes() for number in (0, 54_321, count - 1)] == [b"0", b"54321", b"99999"]
    here.put("p/flat/054321", b"changed")
    here.put("p/flat/054321-and", b"new")
    here.s3.delete_object(Bucket=here.bucket, Key="p/flat/054322")
    (here.root / "flat/made here").write_bytes(b"mine")
    (here.root / "flat/099999").unlink()
    found = json.loads(here.cli("refresh", here.root, "--json").stdout)
    assert [found[name] for name in ("new", "changed", "deleted")] == [1, 1, 1]
    here.drain()
    after = sorted({*names, "054321-and", "made here"} - {"054322", "099999"})
    assert sorted(os.listdir(here.root / "flat")) == after == [key.removeprefix("p/flat/") for key in here.keys("p/flat/")]
    assert (here.root / "flat/054321").read_bytes() == b"changed"
    here.unmount()
    assert here.cli("fsck", here.state_dir).returncode == 0


def check_crowd(here: Site, count: int) -> list[str]:
    """The names. A look again finds nothing new."""
    names = os.listdir(here.root / "flat")
    assert len(names) == len(set(names)) == count
    for name in names[:: count // 100]:
        assert os.stat(here.root / "flat" / name).st_size > 0
    found = json.loads(here.cli("refresh", here.root, "--json").stdout)
    assert [found[name] for name in ("objects", "new", "changed", "deleted")] == [count, 0, 0, 0]
    return names


def test_local_tree_deeper_than_any_path(make_site: Callable[..., Site]) -> None:
    """Made step by step, since no path that long can be given."""
    here = make_site()
    here.source = str(two_associations(here.bucket, here.scratch))
    here.mount()
    at = os.open(here.root, os.O_RDONLY)
    for _ in range(DEEP):
        os.mkdir("d", dir_fd=at)
        above, at = at, os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(above)
    (here.root / "x").mkdir()
    (here.root / "x").rename(here.root / "y")  # paths of directories are no longer remembered
    os.close(os.open("file", os.O_CREAT | os.O_RDWR, dir_fd=at))
    assert os.listdir(at) == ["file"]
    os.close(at)
    here.run("rm", "-r", here.root / "d")
