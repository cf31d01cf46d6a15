"""`s3lustrefs dra`, `fs`, `tag` against the real API on a control socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from s3lustrefs.cli import admin, associations, fsx, shorthand
from s3lustrefs.cli.control_client import ControlClient
from s3lustrefs.cli.file_systems import fs
from s3lustrefs.cli.target import Target
from s3lustrefs.control.fsx_model import TARGET_PREFIX
from s3lustrefs.control.server import ControlServer
from s3lustrefs.errors import ControlFault, UsageError
from s3lustrefs.mountinfo import MountEntry
from tests.unit.control.fsx_scene import ONE, REGION, TWO, Api


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """In a thread of its own; every command finds it as the mount at /mnt/run."""
    running = Api(tmp_path)
    socket_path = tmp_path / "control.sock"
    ready = threading.Event()
    stop: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        await running.start().file_systems.establish(REGION)
        await running.link()
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlServer(socket_path, {}, {TARGET_PREFIX: running.service}).run)
            stop.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()
        await running.store.close()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(20)
    monkeypatch.setattr(Target, "client", lambda self, **options: ControlClient(str(socket_path), **options))
    ours = MountEntry("/mnt/run", "/", "fuse.s3lustrefs", "s3://lab/run")
    monkeypatch.setattr("s3lustrefs.cli.target.read_mounts", lambda _: [MountEntry("/", "/", "ext4", "/dev/vda"), ours])
    yield running
    ((token, scope),) = stop
    token.run_sync_soon(scope.cancel)
    thread.join()


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(admin.cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def answer(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_list_is_a_table_and_json_the_answer_of_the_api(api: Api) -> None:
    head, first, second = run("dra", "list").stdout.splitlines()
    assert head.split() == ["ASSOCIATION", "LIFECYCLE", "DIRECTORY", "REPOSITORY", "IMPORT", "EXPORT", "CHUNK"]
    assert first.split() == [ONE, "AVAILABLE", "/one/", "s3://bucket/one", *["new+changed+deleted"] * 2, "1024", "MiB"]
    assert second.startswith(TWO) and second.index("/two") == head.index("DIRECTORY")
    assert [each["AssociationId"] for each in answer("dra", "list")["Associations"]] == [ONE, TWO]


def test_describe_takes_the_options_of_aws(api: Api) -> None:
    chosen = answer(
        "dra", "describe", "--association-ids", TWO, "--association-ids", ONE, "--filters", "Name=data-repository-type,Values=S3"
    )
    assert [each["AssociationId"] for each in chosen["Associations"]] == [ONE, TWO]
    first = answer("dra", "describe", "--max-results", "1")
    rest = answer("dra", "describe", "--max-results", "1", "--next-token", first["NextToken"])
    assert [each["AssociationId"] for each in rest["Associations"]] == [TWO]
    assert f"--next-token {first['NextToken']}" in run("dra", "describe", "--max-results", "1").output
    assert answer("dra", "describe", "--filters", "Name=data-repository-type,Values=NFS")["Associations"] == []


def test_update_changes_what_is_given(api: Api) -> None:
    policies = "AutoImportPolicy={Events=[NEW]},AutoExportPolicy={Events=[]}"
    shown = run("dra", "update", "--association-id", ONE, "--s3", policies, "--imported-file-chunk-size", "3").stdout
    assert shown.splitlines()[1].split()[-4:] == ["new", "off", "3", "MiB"]
    changed = answer("dra", "update", "--association-id", ONE, "--s3", '{"AutoExportPolicy": {"Events": ["NEW", "CHANGED"]}}')
    assert changed["Association"]["S3"]["AutoExportPolicy"]["Events"] == ["NEW", "CHANGED"]
    assert api.association(ONE).auto_import == {"NEW"}


def test_refusal_is_the_daemons_own_words(api: Api) -> None:
    with pytest.raises(ControlFault, match="'OLD' is not one of NEW, CHANGED, DELETED") as caught:
        run("dra", "update", "--association-id", ONE, "--s3", "AutoImportPolicy={Events=[OLD]}")
    assert caught.value.fault == "BadRequest"
    with pytest.raises(ControlFault, match="there is no data repository association dra-000000000000ffff1"):
        run("dra", "describe", "--association-ids", "dra-000000000000ffff1")


def test_file_system_and_its_tags(api: Api) -> None:
    (file_system,) = answer("fs", "describe")["FileSystems"]
    arn = file_system["ResourceARN"]
    assert arn == api.arn and arn in run("fs", "describe").stdout
    run("tag", "add", "--resource-arn", arn, "--tags", "Key=team,Value=genomics", "--tags", "Key=note,Value='a b'")
    assert run("tag", "list", "--resource-arn", arn).stdout.split() == ["KEY", "VALUE", "note", "a", "b", "team", "genomics"]
    run("tag", "remove", "--resource-arn", arn, "--tag-keys", "note")
    assert answer("tag", "list", "--resource-arn", arn) == {"Tags": [{"Key": "team", "Value": "genomics"}]}


@pytest.mark.parametrize(
    "command", [["dra"], ["fs"], ["tag"], *[[g.name, c] for g in (associations.dra, fs, fsx.tag) for c in g.commands]]
)
def test_help_has_an_example(command: list[str]) -> None:
    assert "Example:  s3lustrefs " in run(*command, "--help").stdout


# --- shorthand ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=x", {"A": "x"}),
        ("A={B=[x,y],C=z},D=1", {"A": {"B": ["x", "y"], "C": "z"}, "D": "1"}),
        ("A = { B = [ x , y ] }", {"A": {"B": ["x", "y"]}}),
        ("A={Events=[]}", {"A": {"Events": []}}),
        ("Name=x,Values=a,b", {"Name": "x", "Values": ["a", "b"]}),
        ('A="x, \\"y\\"",B=\'={}\'', {"A": 'x, "y"', "B": "={}"}),
        ("A=", {"A": ""}),
        ("A=[{B=1},{B=2}]", {"A": [{"B": "1"}, {"B": "2"}]}),
        ('{"A": [1]}', {"A": [1]}),
    ],
)
def test_shorthand(text: str, value: object) -> None:
    assert shorthand.parse(text) == value


@pytest.mark.parametrize("text", ["", "x", "A={B=1", "A=[1", "A=1,A=2", "A=1}", "A={=1}", '{"A"', "A='x"])
def test_wrong_shorthand_says_where(text: str) -> None:
    with pytest.raises(UsageError, match="character|is not JSON"):
        shorthand.parse(text)
