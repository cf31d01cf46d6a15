"""One mount for everyday programs, each in a linked directory of its own: the bucket must agree with it, and later mounts too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.model.operations import Doer
from tests.mount.conftest import fresh_bucket
from tests.mount.site import Site, can_mount, site
from tests.servers import S3Server

_TYPES = {"file": 0o10, "dir": 0o04, "link": 0o12}
_ONE_ASSOCIATION = """
[[dra]]
file_system_path = "/linked"
data_repository_path = "s3://{bucket}/linked/"
"""


Tree = dict[str, dict[str, Any]]


class Workplace:
    """`root` is on the mount and linked with the bucket, `elsewhere` is a directory of the host's own file system.

    `seen` keeps what `export` found in each root, for the last mount of all.
    """

    def __init__(self, site: Site, name: str, elsewhere: Path, seen: dict[Path, Tree]) -> None:
        self._site = site
        self._seen = seen
        self._name = name
        self.root = site.root / "linked" / name
        self.elsewhere = elsewhere

    def run(self, *command: str | Path, check: bool = True, **more: Any) -> str:
        """What the program printed. Raises: AssertionError with what it said if it failed."""
        return self._site.run(*command, check=check, **more).stdout

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        words = [str(word) for word in command]
        return subprocess.Popen(words, env=self._site.environment, stderr=subprocess.PIPE, text=True)

    def export(self) -> None:
        """Drain; the bucket holds exactly the tree. Raises: AssertionError."""
        self._seen[self.root] = tree(self.root)
        self._site.drain()
        self._check_bucket(self._seen[self.root])

    def settle(self) -> None:
        """And a new mount, of whose files the kernel knows nothing yet, shows the same tree. Raises: AssertionError."""
        self.export()
        self._site.unmount()
        self._site.mount()
        assert tree(self.root) == self._seen[self.root]

    def _check_bucket(self, tree: Tree) -> None:
        prefix = f"linked/{self._name}/"
        expected = {
            path + "/" if entry["kind"] == "dir" else path: entry.get("data", entry.get("target", "").encode())
            for path, entry in tree.items()
        }
        found = {key.removeprefix(prefix): body for key, body in self._site.objects(prefix).items() if key != prefix}
        names = expected.keys() ^ found.keys()
        assert not names, f"only on one side: {sorted(names)}"
        assert [name for name in expected if expected[name] != found[name]] == []
        for path, entry in tree.items():
            metadata = self._site.head(prefix + path + "/" * (entry["kind"] == "dir"))["Metadata"]
            mode = f"0{_TYPES[entry['kind']] << 12 | entry['mode']:o}"
            assert (metadata["file-permissions"], metadata["file-owner"]) == (mode, str(entry["uid"])), path


def tree(root: Path) -> Tree:
    """Everything below a directory, with content, attributes and extended attributes."""
    verdict, found = Doer(str(root)).do(["tree", True])
    assert verdict == "ok", found
    return dict(found)


@pytest.fixture(scope="session")
def application_site(moto_server: S3Server) -> Iterator[tuple[Site, dict[Path, Tree]]]:
    if not can_mount():
        pytest.skip("mounting needs /dev/fuse and root")
    bucket = fresh_bucket(moto_server)
    with site(moto_server, bucket) as place:
        source = place.scratch / "applications.toml"
        source.write_text(_ONE_ASSOCIATION.format(bucket=bucket))
        place.source = str(source)
        place.mount()
        seen: dict[Path, Tree] = {}
        yield place, seen
        place.unmount()
        place.mount()
        assert [root.name for root, before in seen.items() if tree(root) != before] == []
        place.unmount()


@pytest.fixture
def workplace(
    application_site: tuple[Site, dict[Path, Tree]], request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Workplace]:
    """What the test has left is exported in the end, and looked at again by a last mount after all tests."""
    name = str(request.node.name).replace("[", "-").replace("]", "")
    place, seen = application_site
    made = Workplace(place, name, tmp_path, seen)
    made.root.mkdir()
    yield made
    made.export()
