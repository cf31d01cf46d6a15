"""A mount that a reference follows, and everything that can happen to it: an operation is either a system call or one of these.

Faults of the bucket come from a proxy. Before the bucket is looked at, all files are closed (open ones are not due) and
the proxy is calm. What others do is told of by events where the session has a `Telling`.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.meta.check import check_state_dir
from tests.model.bucket_faults import BucketFaults, Fault, PatientWorker
from tests.model.bucket_reference import (
    ASSOCIATIONS,
    StoredObject,
    check_bucket,
    expected_objects,
    imported,
    read_bucket,
    take_headers,
)
from tests.model.by_others import RemoteChange, carry_out, show
from tests.model.following import CLOCK_SLACK_NS, Follower
from tests.model.operations import Operation, Outcome, content
from tests.model.policies import EVERYTHING, Fsx, check_kept
from tests.model.reference import Reference
from tests.model.reference_tree import Inode
from tests.model.telling import Fate, Telling
from tests.mount.background_proxy import BackgroundProxy
from tests.mount.site import S3LUSTREFS, Site

_CONFLICT = re.compile(r"(.*)\.conflict-\d{8}T\d{6}Z-.*")
_DRAIN_SECONDS = "60"
_SWEEP_SECONDS = 60.0
_SHOWN_SECONDS = 60.0
_HEARD_SECONDS = 5.0
"""After which messages are sent again: SQS hides those of a receipt whose answer was lost for two minutes."""
_MOMENT_SECONDS = 0.05
_ON_AGREEMENT = {
    "kill_during_export", "import_anew", "others", "others_told", "replace_object", "create_object", "delete_object",
}  # fmt: skip
"""What is about a bucket that has everything: exports are on then."""


class Session:
    """`do` raises AssertionError when the mount, its state directory or its bucket is not what the reference says."""

    def __init__(self, site: Site, proxy: BackgroundProxy, telling: Telling | None = None) -> None:
        self.site = site
        self._proxy = proxy
        self._faults = BucketFaults(proxy)
        self._telling = telling
        self._fsx = Fsx(site)
        self.trace: list[Operation] = []
        self.happened: dict[str, int] = {}
        self._imports: dict[str, str] = {}
        """The import policy of each association."""
        self._exports = EVERYTHING
        self._before: dict[str, StoredObject] = {}
        """What the bucket held when exports were restricted."""
        self._sweeping: set[str] = set()
        """Directories whose sweep of this mount has not been seen to end."""
        self._mount_fresh()

    @property
    def reference(self) -> Reference:
        return self._follower.reference

    def do(self, operation: Operation) -> None:
        self.trace.append(operation)
        verb, *arguments = operation
        event = getattr(self, f"_do_{verb}", None)
        if verb in _ON_AGREEMENT:
            self._do_exports(EVERYTHING)
        if event is not None:
            event(*arguments)
        elif operation[::2] == ["hsm", "archive"] and self._exports != EVERYTHING:
            return  # whatever the policy says
        elif not self._follower.do(operation):
            return
        self.happened[verb] = self.happened.get(verb, 0) + 1

    def end(self) -> None:
        """Everything once more at the end."""
        self.do(["exports", EVERYTHING])
        self.do(["drain"])
        self.do(["remount"])
        self._follower.compare_tree(with_content=True)
        self._worker.end()
        self.site.unmount()
        self._check_state_dir()

    def abandon(self) -> None:
        """After a failure: neither process nor mount stays, even if something hangs."""
        self._faults.clear()
        try:
            self.site.kill_daemon()
        finally:
            self._worker.end()

    # --- mounting --------------------------------------------------------------------------------------------------------

    def _mount_fresh(self) -> None:
        """The tree is what the bucket says, and no more."""
        before = read_bucket(self.site)
        self._mount()
        self._imports = dict.fromkeys(ASSOCIATIONS, self.site.options.get("auto_import", "none"))
        self._sweeping.clear()
        self._worker = PatientWorker(self.site.root, self._faults)
        self._follower = Follower(Reference(imported(before.values())), self._worker)
        self._adopt_import_times()
        self._follower.do(["mkdir", "local", 0o755])
        self._follower.compare_tree(with_content=False)

    def _mount(self) -> None:
        if self._telling is not None:
            self._telling.end_polls()
        self.site.mount()

    def _adopt_import_times(self) -> None:
        """Implied and linked directories have the time of import; some servers tell fractions of LastModified in listings only."""
        _, found = self._worker.do(["tree", False])
        for path, inode in self.reference.root.walk():
            there = found.get(path, {}).get("mtime_ns", 0)
            if inode.is_dir or _same_second(inode, there):
                inode.mtime_ns = there
                inode.header_mtimes = {there}

    def _mount_again(self) -> None:
        """With an import policy, a sweep runs beside what comes next; it must find nothing to do."""
        self._mount_swept()
        self._follower.compare_tree(with_content=False)

    def _mount_swept(self) -> None:
        if self._faults.refuses or self._faults.lies:
            self._faults.clear()  # a mount that is refused says why, and is none
        self._mount()
        self._sweeping = {name for name, policy in self._imports.items() if policy != "none"}
        self._worker = PatientWorker(self.site.root, self._faults)
        self._follower.real = self._worker

    def _wait_for_sweep(self) -> None:
        """The one that comes with a mount, if it does; no other does by itself."""
        deadline = time.monotonic() + _SWEEP_SECONDS
        while self._sweeping:
            associations = self._ask("Status")["associations"]
            self._sweeping -= {each["file_system_path"].strip("/") for each in associations if each["sweep"]["at"]}
            assert time.monotonic() < deadline, f"no sweep: {associations}"

    def _ask(self, operation: str, **request: object) -> Any:
        return ControlClient(str(self.site.state_dir / "control.sock"), timeout=_SWEEP_SECONDS).call(operation, **request)

    def _close_all(self) -> None:
        self._follower.do(["close_all"])

    def _check_state_dir(self) -> None:
        findings = check_state_dir(self.site.state_dir)
        assert not findings, findings

    # --- what may happen -------------------------------------------------------------------------------------------------

    def _do_compare(self, with_content: bool) -> None:
        self._follower.compare_tree(with_content=with_content)

    def _do_remount(self) -> None:
        """Unmounted without waiting for exports."""
        self._close_all()
        self._worker.end()
        self.site.unmount()
        self._check_state_dir()
        self._mount_again()

    def _do_kill(self) -> None:
        """SIGKILL while files are open: everything that returned is there afterwards."""
        self.site.kill_daemon()
        self._after_death()

    def _after_death(self) -> None:
        self._worker.end()
        self.reference.do(["close_all"])
        self._check_state_dir()  # the dead mount stays where it is: the next one clears it
        self._mount_again()

    def _do_kill_during_export(self, action: str, seed: int, length: int) -> None:
        """The daemon dies while the answer to a PUT is outstanding: with `hold` as action, before the server has seen the request,
        with `hold-reply` after it has carried it out."""
        path = self._free_name("one", "interrupted")
        self._write_file(path, seed, length)
        self._close_all()
        self._faults.clear()
        self._proxy.add(action, method="PUT", path=path)
        command = [S3LUSTREFS, "drain", str(self.site.root), "--timeout", _DRAIN_SECONDS]
        drain = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._proxy.wait_held()
        self.site.kill_daemon()
        drain.wait()
        self._faults.clear()
        self._after_death()

    def _do_drain(self) -> None:
        """Everything written is in the bucket, object by object, or what the export policy wants there."""
        self._close_all()
        self._faults.clear()
        self._wait_for_sweep()
        done = self.site.cli("drain", self.site.root, "--timeout", _DRAIN_SECONDS, check=False)
        assert done.returncode == 0, f"drain: {done.returncode} {done.stderr}\n{self.site.status()['export']}"
        if self._exports == EVERYTHING:
            check_bucket(self.site, self.reference.root)
        else:
            check_kept(self._before, read_bucket(self.site), self.reference.root, self._exports)

    def _do_export_now(self) -> None:
        """What is due is exported beside the operations that follow, without the second it usually waits."""
        self._ask("Drain", paths=["/"], urgent=True, again=True)

    def _do_faults(self, faults: list[Fault]) -> None:
        """From now on some requests fail, until the next drain."""
        self._faults.add(faults)

    def _do_import_anew(self) -> None:
        """Another host mounts the bucket: what was exported comes back as it was."""
        self._do_drain()
        self._worker.end()
        self.site.unmount()
        subprocess.run(["rm", "-rf", str(self.site.state_dir)], check=True)
        self._mount_fresh()

    # --- changes by others -----------------------------------------------------------------------------------------------

    def _do_others(self, changes: list[list[Any]], policy: str, changed_here: str) -> None:
        """Others change the bucket, and a job here perhaps one of the same files, `changed_here`. The mount shows what the sweep
        of the next mount may bring by `policy` (empty: no mount), and the rest after a refresh."""
        self._do_drain()
        made = carry_out(self.site, self.reference.root, changes)
        lost = next((each for each in made if each.path == changed_here and self._is_file(each.path)), None)
        if lost is not None:
            self._rewrite(lost.path)
        clean = [each for each in made if each is not lost]
        if policy:
            self._worker.end()
            self.site.unmount()
            self._check_state_dir()
            self.site.options["auto_import"] = policy
            self._imports = dict.fromkeys(ASSOCIATIONS, policy)
            before = time.time_ns() - CLOCK_SLACK_NS
            self._mount_swept()
            self._wait_for_sweep()
            self._expect_shown([each for each in clean if each.event in policy.split("+")], before)
            clean = [each for each in clean if each.event not in policy.split("+")]
            if lost is None:
                self._follower.compare_tree(with_content=False)
        self._do_refresh(clean)
        if lost is not None and lost.stored is not None:
            self._expect_conflict(lost.path, lost.stored)
        elif lost is not None:
            dict(self.reference.root.walk())[lost.path].foreign = {}
        self._follower.compare_tree(with_content=True)
        self._do_drain()

    def _do_others_told(self, changes: list[list[Any]], fate: list[Any], mounts: bool) -> None:
        """Others change the bucket, which tells of it; what is told of shows by itself, as the import policies say. The rest shows
        after the sweep of a mount, as far as the policies go, and all of it after a refresh."""
        assert self._telling is not None
        self._do_drain()
        self._tell(Fate(fate[0], 0, 0, 0))
        made = carry_out(self.site, self.reference.root, changes)
        before = time.time_ns() - CLOCK_SLACK_NS
        told = self._tell(Fate(*fate))
        heard = [each for each in made if each.key in told and self._is_imported(each)]
        self._expect_shown_soon(heard, before)
        left = [each for each in made if each not in heard or (each.verb == "unmark" and self._is_there(each.path))]
        if mounts:
            self._worker.end()
            self.site.unmount()
            self._check_state_dir()
            before = time.time_ns() - CLOCK_SLACK_NS
            self._mount_swept()
            self._wait_for_sweep()
            self._expect_shown([each for each in left if self._is_imported(each)], before, heard)
            left = [each for each in left if not self._is_imported(each)]
            self._follower.compare_tree(with_content=False)
        self._do_refresh(left, heard)
        self._follower.compare_tree(with_content=True)
        self._do_drain()

    def _do_tell(self, fate: list[Any]) -> None:
        """Messages arrive about what happened at some time, among them our own exports, and change nothing."""
        assert self._telling is not None
        self._telling.deliver(Fate(*fate))

    def _do_imports(self, policies: dict[str, str]) -> None:
        """The API switches events of the import policies on and off."""
        self._faults.clear()
        self._wait_for_sweep()
        self._fsx.set_policy("AutoImportPolicy", policies)
        self._imports = dict(policies)

    def _do_exports(self, policy: str) -> None:
        """The API switches events of the export policy on and off. Before more are on again, an export task brings into the bucket
        what was kept here, and objects whose names were given up here are deleted."""
        if policy == self._exports:
            return
        self._do_drain()
        if self._exports != EVERYTHING:
            self._export_what_was_kept()
        if policy != "none" or self._exports == EVERYTHING:
            self._fsx.set_policy("AutoExportPolicy", dict.fromkeys(ASSOCIATIONS, policy))
        self._exports, self._before = policy, read_bucket(self.site)

    def _export_what_was_kept(self) -> None:
        self._fsx.set_policy("AutoExportPolicy", dict.fromkeys(ASSOCIATIONS, "none"))
        self._fsx.export_task()
        self._follower.compare_tree(with_content=True)  # what was moved out of an association has its bytes in what it left there
        for key in read_bucket(self.site).keys() - expected_objects(self.reference.root).keys():
            self.site.s3.delete_object(Bucket=self.site.bucket, Key=key)
        self._do_refresh([])
        self._follower.compare_tree(with_content=True)
        check_bucket(self.site, self.reference.root)

    def _do_refresh(self, changes: Iterable[RemoteChange] = (), told: Iterable[RemoteChange] = ()) -> None:
        """Looking at the bucket shows these changes, and undoes nothing that is kept here."""
        self._faults.clear()
        before = time.time_ns() - CLOCK_SLACK_NS
        for name in ASSOCIATIONS:
            self._ask("Refresh", path=f"/{name}")
        self._expect_shown(changes, before, told)

    def _is_imported(self, change: RemoteChange) -> bool:
        return change.event in self._imports[change.path.partition("/")[0]].split("+")

    def _is_there(self, path: str) -> bool:
        return path in dict(self.reference.root.walk())

    def _tell(self, fate: Fate) -> set[str]:
        """The keys about which the mount has heard by now."""
        assert self._telling is not None
        if not any(policy != "none" for policy in self._imports.values()):
            self._telling.forget()  # nobody listens
            return set()
        self._until(lambda: self._events()["state"] == "LISTENING", self._events)
        self._telling.wait_taken()
        started, before = time.monotonic(), self._taken_by_now()
        sent = self._telling.deliver(fate)
        deadline = time.monotonic() + _HEARD_SECONDS
        while self._taken() < before + len(sent):
            if time.monotonic() > deadline:
                before = self._taken_by_now()
                self._telling.send(sent)
                deadline = time.monotonic() + _HEARD_SECONDS
                assert time.monotonic() < started + _SHOWN_SECONDS, self._events()
            time.sleep(0.01)
        self._telling.wait_taken()
        return {key for key, _ in sent}

    def _taken_by_now(self) -> int:
        """With what was received a moment ago."""
        last = -1
        while (taken := self._taken()) != last:
            last = taken
            time.sleep(_MOMENT_SECONDS)
        return taken

    def _events(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("Status")["associations"][0]["events"]
        return found

    def _taken(self) -> int:
        found = self._events()
        return int(found["events"]) + int(found["foreign"])

    def _until(self, condition: Callable[[], bool], what: Callable[[], object]) -> None:
        deadline = time.monotonic() + _SHOWN_SECONDS
        while not condition():
            assert time.monotonic() < deadline, what()
            time.sleep(0.01)

    def _expect_shown_soon(self, changes: list[RemoteChange], before: int) -> None:
        """The kernel is told of a change a moment after it was made."""
        touched = show(self.reference.root, changes)

        expected = {path: (inode.kind, None if inode.is_dir else inode.size) for path, inode in self.reference.root.walk()}
        changed = {path for path, inode in self.reference.root.walk() if inode in touched}

        def shows() -> bool:
            done, found = self._worker.do(["tree", False])
            if done == "error":  # a name went while it was looked at
                return False
            is_told = {path: (entry["kind"], entry.get("size")) for path, entry in found.items()} == expected
            return is_told and all(found[path]["mtime_ns"] >= before for path in changed)

        self._until(shows, lambda: f"{changes}\n{expected}\n{self._worker.do(['tree', False])[1]}")
        self._adopt_shown(touched, before, changes)
        self._follower.compare_tree(with_content=False)

    def _is_file(self, path: str) -> bool:
        inode = dict(self.reference.root.walk()).get(path)
        return inode is not None and inode.kind == "file"

    def _rewrite(self, path: str) -> None:
        self._follower.do(["open", 0, path, 0o1001, 0])
        self._follower.do(["write", 0, 0, len(path), 123])
        self._follower.do(["close", 0])

    def _expect_shown(self, changes: Iterable[RemoteChange], before: int, told: Iterable[RemoteChange] = ()) -> None:
        self._adopt_shown(show(self.reference.root, changes), before, told)

    def _adopt_shown(self, touched: set[Inode], before: int, told: Iterable[RemoteChange] = ()) -> None:
        """`told`: of changes that events told of, whose time is that of a file without times of its own until it is listed."""
        after = time.time_ns()
        told_paths = {each.path for each in told}
        _, found = self._worker.do(["tree", False])
        for path, inode in self.reference.root.walk():
            there = found.get(path, {}).get("mtime_ns", 0)
            if inode in touched:
                assert before <= there <= after, f"{path}: mtime {there} not in [{before}, {after}]"
            is_close = path in told_paths and inode.is_bare and abs(there - inode.mtime_ns) <= 10**9
            if inode in touched or is_close or _same_second(inode, there):
                inode.mtime_ns = there
                inode.header_mtimes = {there}

    def _do_replace_object(self, path: str, seed: int, length: int, headers: Mapping[str, str]) -> None:
        """Somebody puts another version. A file not wholly local shows it when it is opened and read; one that is local
        stays as it is, and when it is changed here too, both are kept."""
        self._do_drain()
        inode = dict(self.reference.root.walk()).get(path)
        if inode is None or inode.kind != "file" or inode.nlink != 1 or not inode.data:
            return
        is_local = self.site.about(path)["resident_bytes"] == len(inode.data)
        stored = self._put(path, content(seed, length), headers)
        if is_local:
            self._change_locally(path, seed)
            self._expect_conflict(path, stored)
        else:
            self._expect_new_version(path, inode, stored)
        self._do_drain()

    def _do_create_object(self, directory: str, seed: int, length: int) -> None:
        """Somebody puts an object under a name that is then made here too: both are kept."""
        inode = dict(self.reference.root.walk()).get(directory)
        if inode is None or not inode.is_dir or directory.partition("/")[0] not in ASSOCIATIONS:
            return
        self._do_drain()
        path = self._free_name(directory, "theirs")
        stored = self._put(path, content(seed, length), {})
        self._follower.do(["stat", path])
        self._write_file(path, seed + 1, length)
        self._expect_conflict(path, stored)
        self._do_drain()

    def _do_delete_object(self, path: str, seed: int) -> None:
        """Somebody deletes the object of a file that is local: it is exported again once it changes."""
        self._do_drain()
        inode = dict(self.reference.root.walk()).get(path)
        if inode is None or inode.kind != "file" or self.site.about(path)["resident_bytes"] != len(inode.data):
            return
        self.site.s3.delete_object(Bucket=self.site.bucket, Key=path)
        inode.foreign = {}
        self._change_locally(path, seed)
        self._do_drain()

    def _put(self, key: str, body: bytes, headers: Mapping[str, str]) -> StoredObject:
        self.site.put(key, body, Metadata=headers)
        return read_bucket(self.site)[key]

    def _change_locally(self, path: str, seed: int) -> None:
        self._follower.do(["open", 0, path, 1, 0])
        self._follower.do(["write", 0, 0, seed + 7, 123])
        self._follower.do(["close", 0])

    def _write_file(self, path: str, seed: int, length: int) -> None:
        self._follower.do(["open", 0, path, 0o101, 0o644])
        self._follower.do(["write", 0, 0, seed, length])
        self._follower.do(["close", 0])

    def _free_name(self, directory: str, stem: str) -> str:
        taken = {path for path, _ in self.reference.root.walk()}
        return next(name for number in range(100_000) if (name := f"{directory}/{stem}-{number}") not in taken)

    def _expect_new_version(self, path: str, inode: Inode, stored: StoredObject) -> None:
        """A reader in the middle of the old version may get ESTALE, a new open sees the new one."""
        outcome: Outcome = ("", b"")
        for _ in range(3):
            outcome = self._worker.do(["read_file", path])
            if outcome == ("ok", stored.body):
                break
        assert outcome == ("ok", stored.body), f"{path}: not the new version"
        inode.data[:] = stored.body
        inode.foreign = {"content-type": stored.content_type}
        take_headers(inode, stored)
        self._follower.compare_tree(with_content=False)

    def _expect_conflict(self, path: str, stored: StoredObject) -> None:
        """The bucket's version has the name, the local file is beside it."""
        self.site.cli("drain", self.site.root, "--timeout", _DRAIN_SECONDS)
        directory, _, name = path.rpartition("/")
        parent = dict(self.reference.root.walk())[directory]
        _, names = self._worker.do(["readdir", directory])
        added = [each for each in names if each not in parent.children]
        assert len(added) == 1 and (match := _CONFLICT.fullmatch(added[0])) and match[1] == name, f"{path}: no conflict: {names}"
        ours = parent.children[added[0]] = parent.children[name]
        ours.foreign = {}
        theirs = parent.children[name] = Inode("file", 0o755, data=bytearray(stored.body))
        take_headers(theirs, stored)
        self._adopt_import_times()
        self._follower.compare_tree(with_content=False)


def _same_second(inode: Inode, mtime_ns: int) -> bool:
    return inode.is_bare and mtime_ns // 10**9 == inode.mtime_ns // 10**9
