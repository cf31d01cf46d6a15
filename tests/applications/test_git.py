"""git keeps a repository here: many small files, renames over existing names, mapped packs, checks of everything."""

from __future__ import annotations

from pathlib import Path

from tests.applications.conftest import Workplace

_IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-c", "gc.auto=0"]


def _git(workplace: Workplace, repository: Path, *words: str | Path) -> str:
    return workplace.run("git", *_IDENTITY, "-C", repository, *words)


def _origin(workplace: Workplace) -> Path:
    """A repository on the host's own file system: three commits, directories, a symlink, an executable."""
    origin = workplace.elsewhere / "origin"
    workplace.run("git", *_IDENTITY, "init", "-q", origin)
    for commit in range(3):
        for number in range(25):
            path = origin / f"d{number % 4}" / f"file{number}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"commit {commit}\n" * (number * 20 + 1))
        (origin / "run").write_text("#!/bin/sh\n")
        (origin / "run").chmod(0o755)
        if not commit:
            (origin / "link").symlink_to("d1/file1.txt")
        _git(workplace, origin, "add", "-A")
        _git(workplace, origin, "commit", "-q", "-m", f"commit {commit}")
    return origin


def test_git_clone_commit_merge_gc_and_fsck(workplace: Workplace) -> None:
    origin = _origin(workplace)
    clone = workplace.root / "clone"
    workplace.run("git", *_IDENTITY, "clone", "-q", "--no-local", origin, clone)
    _git(workplace, clone, "checkout", "-q", "-b", "topic", "HEAD~1")
    (clone / "added").write_text("here\n")
    _git(workplace, clone, "add", "added")
    _git(workplace, clone, "commit", "-q", "-m", "on a topic")
    _git(workplace, clone, "checkout", "-q", "main")
    _git(workplace, clone, "merge", "-q", "--no-edit", "topic")
    _git(workplace, clone, "mv", "d1", "moved")
    _git(workplace, clone, "commit", "-q", "-m", "moved")
    _git(workplace, clone, "gc", "-q", "--prune=now")
    commits = _git(workplace, clone, "rev-list", "--all").split()
    workplace.settle()
    assert _git(workplace, clone, "fsck", "--strict", "--full") == ""
    assert _git(workplace, clone, "status", "--porcelain") == ""
    assert _git(workplace, clone, "rev-list", "--all").split() == commits and len(commits) == 6
    _git(workplace, origin, "fetch", "-q", clone, "main")
    assert _git(workplace, origin, "cat-file", "-p", "FETCH_HEAD:added") == "here\n"
