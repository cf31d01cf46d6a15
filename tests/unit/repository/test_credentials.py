"""Credentials are resolved as botocore does, kept fresh, and never shown."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from s3lustrefs import errors
from s3lustrefs.model.association import Endpoint
from s3lustrefs.repository import credentials as credentials_module
from s3lustrefs.repository.credential_snapshot import CredentialSnapshot
from s3lustrefs.repository.credentials import Credentials, StaticCredentials, resolve_region


@pytest.fixture(autouse=True)
def no_own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


async def test_no_credentials_says_what_was_tried_and_what_helps() -> None:
    with pytest.raises(errors.RepositoryDenied, match="AWS_ACCESS_KEY_ID.*default profile.*-o profile=NAME"):
        await Credentials(Endpoint()).snapshot()


async def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(errors.RepositoryDenied, match="'lab'"):
        await Credentials(Endpoint(profile="lab")).snapshot()
    with pytest.raises(errors.RepositoryDenied, match="'lab'"):
        resolve_region(Endpoint(profile="lab"))


async def test_a_profile_gives_keys_and_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile lab]\naws_access_key_id = AK\naws_secret_access_key = SK\naws_session_token = T\nregion = eu-south-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    endpoint = Endpoint(profile="lab")
    assert await Credentials(endpoint).snapshot() == CredentialSnapshot("AK", "SK", "T")
    assert resolve_region(endpoint) == "eu-south-1"
    assert resolve_region(Endpoint(profile="lab", region="us-west-2")) == "us-west-2"
    assert resolve_region(Endpoint()) == "us-east-1"


async def test_a_credential_process_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text("[profile lab]\ncredential_process = /bin/false\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(errors.RepositoryDenied, match="cannot be resolved"):
        await Credentials(Endpoint(profile="lab")).snapshot()


async def test_a_credential_process_that_hangs_is_given_up_once_for_all_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text("[profile lab]\ncredential_process = /bin/sleep 20\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setattr(credentials_module, "RESOLVE_SECONDS", 1.0)
    credentials = Credentials(Endpoint(profile="lab"))
    failures: list[errors.RepositoryError] = []

    async def ask() -> None:
        try:
            await credentials.snapshot()
        except errors.RepositoryError as error:
            failures.append(error)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert trio.current_time() - started < 8
    assert [type(each) for each in failures] == [errors.RepositoryUnavailable] * 10
    assert "no answer within" in str(failures[0])


@pytest.fixture
def key_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential_process of profile `lab` that numbers its keys, which expire so soon that botocore asks again each time."""
    program = tmp_path / "keys"
    expiry = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)).isoformat()
    keys = f'{{"Version": 1, "AccessKeyId": "AK%d", "SecretAccessKey": "SK", "SessionToken": "T", "Expiration": "{expiry}"}}'
    program.write_text(f"#!/bin/sh\necho x >> {tmp_path}/calls\nprintf '{keys}' $(wc -l < {tmp_path}/calls)\n")
    program.chmod(0o755)
    config = tmp_path / "config"
    config.write_text(f"[profile lab]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    return program


async def test_concurrent_first_uses_and_refreshes_resolve_once(key_program: Path) -> None:
    credentials = Credentials(Endpoint(profile="lab"))
    with pytest.raises(errors.RepositoryDenied, match="never resolved"):
        credentials.current()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(credentials.snapshot)
    first = credentials.current()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(credentials.refresh, first)
    calls = len(key_program.with_name("calls").read_text().splitlines())
    assert credentials.current().access_key == f"AK{calls}"
    assert calls <= 4, "one resolution asks the program once or twice"


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait for what a thread of botocore brings about; nothing there can be waited for."""
    with trio.fail_after(20):
        while not holds():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_run_renews_keys_ahead_of_time_and_keeps_them_when_that_fails(
    key_program: Path, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = Credentials(Endpoint(profile="lab"), check_seconds=0.01)
    await nursery.start(credentials.run)
    first = credentials.current()
    await eventually(lambda: credentials.current() != first)
    failing = key_program.with_name("failing")
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o755)
    failing.replace(key_program)
    await eventually(lambda: "credentials renewal failed" in caplog.text)
    assert credentials.current().secret_key == "SK"
    nursery.cancel_scope.cancel()


async def test_run_is_ready_once_there_are_keys(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
    credentials = Credentials(Endpoint())
    await nursery.start(credentials.run)
    assert credentials.current() == CredentialSnapshot("AK", "SK")
    nursery.cancel_scope.cancel()


def test_nothing_shows_a_secret() -> None:
    snapshot = CredentialSnapshot("AKIAX", "SECRETX", "TOKENX")
    credentials = StaticCredentials("AKIAX", "SECRETX", "TOKENX")
    for text in (repr(snapshot), str(snapshot), repr(credentials)):
        assert not any(secret in text for secret in ("AKIAX", "SECRETX", "TOKENX"))
