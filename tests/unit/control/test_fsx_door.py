"""The TCP door: who is let in. Requests are made by hand, signed by botocore, and then spoilt."""

from __future__ import annotations

import datetime
import json
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
import trio
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from s3lustrefs import errors
from s3lustrefs.control import http_door, seen_signatures
from s3lustrefs.control.api_credentials import KeyPair, load_or_make
from s3lustrefs.control.api_server import ApiServer, listen, tls
from s3lustrefs.control.faults import STATUS
from s3lustrefs.control.http_door import Request
from s3lustrefs.control.seen_signatures import REPEAT_SECONDS, SeenSignatures
from s3lustrefs.control.signature import SKEW_SECONDS, Verifier
from tests.certificates import self_signed
from tests.unit.control.fsx_scene import ONE, PAIR, REGION, Api, client_of

NOW = 1_800_000_000.0
TARGET = "AWSSimbaAPIService_v20180301.DescribeFileSystems"
BODY = b'{"MaxResults": 5}'


def signed(
    body: bytes = BODY, *, at: float = NOW, pair: KeyPair = PAIR, region: str = REGION, service: str = "fsx", **headers: str
) -> dict[str, str]:
    """The headers of a signed request, by name in lower case."""
    request = AWSRequest(method="POST", url="http://127.0.0.1:1/", data=body, headers={"X-Amz-Target": TARGET, **headers})
    request.context["timestamp"] = datetime.datetime.fromtimestamp(at, tz=datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    request.headers["Host"] = "127.0.0.1:1"
    signer = SigV4Auth(Credentials(pair.access_key, pair.secret_key), service, region)
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    signer._inject_signature_to_request(request, signature)
    return {name.lower(): value for name, value in request.headers.items()}


class Times:
    """The clock and the uptime that a verifier goes by; `passes` moves both."""

    def __init__(self) -> None:
        self.now, self.up = NOW, 0.0

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.up += seconds

    def verifier(self) -> Verifier:
        """Starts now."""
        return Verifier(PAIR, REGION, lambda: self.now, lambda: self.up)


def running() -> Verifier:
    """One that has been there for an hour."""
    times = Times()
    made = times.verifier()
    times.up += 3600
    return made


def verify(headers: Mapping[str, str], body: bytes = BODY, *more: tuple[str, str], by: Verifier | None = None) -> None:
    (by or running()).verify(Request("POST", "/", (*headers.items(), *more), body))


def refusal(headers: Mapping[str, str], body: bytes = BODY, *more: tuple[str, str], by: Verifier | None = None) -> str:
    with pytest.raises(errors.ControlFault) as caught:
        verify(headers, body, *more, by=by)
    assert PAIR.secret_key not in str(caught.value)
    return caught.value.fault


@pytest.mark.parametrize("seconds", [0, SKEW_SECONDS, -SKEW_SECONDS])
def test_signed_request_passes(seconds: int) -> None:
    verify(signed(at=NOW + seconds))


@pytest.mark.parametrize("seconds", [SKEW_SECONDS + 1, -SKEW_SECONDS - 1, 86400 * 365])
def test_request_of_another_time_is_expired(seconds: int) -> None:
    assert refusal(signed(at=NOW + seconds)) == "RequestExpired"


def respelt(old: str, new: str) -> dict[str, str]:
    """A signed request with another Authorization."""
    authorization = signed()["authorization"]
    assert old in authorization
    return {**signed(), "authorization": authorization.replace(old, new)}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in signed().items() if key != name}


SPOILT = {
    "another secret": (signed(pair=KeyPair(PAIR.access_key, "another secret")), "InvalidSignatureException"),
    "another key": (signed(pair=KeyPair("AKIAAAAAAAAAAAAAAAAA", PAIR.secret_key)), "UnrecognizedClientException"),
    "another region": (signed(region="us-east-1"), "InvalidSignatureException"),
    "another service": (signed(service="s3"), "InvalidSignatureException"),
    "another operation": ({**signed(), "x-amz-target": TARGET.replace("Describe", "Update")}, "InvalidSignatureException"),
    "another host": ({**signed(), "host": "elsewhere"}, "InvalidSignatureException"),
    "no host": ({**signed(), "host": "[::1"}, "IncompleteSignature"),
    "another date": ({**signed(), "x-amz-date": "20270115T080001Z"}, "InvalidSignatureException"),
    "no date": ({**signed(), "x-amz-date": "yesterday"}, "IncompleteSignature"),
    "date absent": (without("x-amz-date"), "IncompleteSignature"),
    "unsigned header": ({**signed(), "x-amz-new": "unsigned"}, "IncompleteSignature"),
    "unsigned host": (respelt("SignedHeaders=host;", "SignedHeaders="), "IncompleteSignature"),
    "header absent": (respelt("x-amz-target", "x-amz-target;x-other"), "IncompleteSignature"),
    "basic": ({**signed(), "authorization": "Basic dTpw"}, "IncompleteSignature"),
    "empty": ({**signed(), "authorization": "AWS4-HMAC-SHA256"}, "IncompleteSignature"),
    "two signatures": (respelt("Signature=", "Signature=00, Signature="), "IncompleteSignature"),
    "short scope": (respelt("/aws4_request", ""), "IncompleteSignature"),
    "garbage": ({**signed(), "authorization": "\xff\x00, ,=,"}, "IncompleteSignature"),
    "unsigned": (without("authorization"), "MissingAuthenticationToken"),
}


@pytest.mark.parametrize(("headers", "fault"), SPOILT.values(), ids=SPOILT.keys())
def test_request_that_is_not_signed_right_is_refused(headers: dict[str, str], fault: str) -> None:
    assert refusal(headers) == fault


def test_there_is_one_path() -> None:
    headers = tuple(signed().items())
    for target in ("/other", "/?Action=x", "/.", "*"):
        with pytest.raises(errors.ControlFault) as caught:
            running().verify(Request("POST", target, headers, BODY))
        assert caught.value.fault == "UnknownOperationException"


PARTS = st.text(st.sampled_from("aA0/=,; %:[]\xff\t.-_") | st.characters(max_codepoint=255), max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["host", "authorization", "x-amz-date", "x-amz-target", "x-amz-content-sha256", "x-amz-x"]), PARTS
    ),
    st.lists(
        st.tuples(st.sampled_from(["AWS4-HMAC-SHA256", "SignedHeaders", "host", "Signature", "/", ",", REGION]), PARTS), max_size=3
    ),
    st.sampled_from(["/", "/", "/", "/x", "*"]),
)
def test_no_stranger_gets_in_or_ends_the_daemon(
    replaced: dict[str, str], respelt_parts: list[tuple[str, str]], target: str
) -> None:
    headers = {**signed(), **replaced}
    for old, new in respelt_parts:
        headers["authorization"] = headers["authorization"].replace(old, new)
    try:
        running().verify(Request("POST", target, tuple(headers.items()), BODY))
    except errors.ControlFault as refused:
        assert refused.fault in {*STATUS, "RequestExpired", "UnknownOperationException"} - {"InternalServerError"}
    else:
        assert target == "/" and headers["x-amz-target"] == TARGET


def test_body_is_part_of_what_is_signed() -> None:
    assert refusal(signed(), b'{"MaxResults": 6}') == "InvalidSignatureException"
    # Also when the client states a hash itself: the signature would be right.
    stated = signed(**{"X-Amz-Content-SHA256": "0" * 64})
    assert refusal(stated) == "InvalidSignatureException"
    assert refusal(signed(**{"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}), b"{}") == "InvalidSignatureException"


@pytest.mark.parametrize("name", ["x-amz-target", "authorization", "host", "x-amz-date"])
def test_header_that_is_there_twice_is_refused(name: str) -> None:
    headers = signed()
    assert refusal(headers, BODY, (name, headers[name])) == "IncompleteSignature"


# --- once more ----------------------------------------------------------------------------------------------------------------


def test_equal_requests_of_one_second_pass_and_a_recording_of_them_does_not() -> None:
    times = Times()
    verifier, recorded = times.verifier(), signed()
    verify(recorded, by=verifier)
    times.passes(REPEAT_SECONDS)
    verify(recorded, by=verifier)
    times.passes(0.1)
    assert refusal(recorded, by=verifier) == "RequestExpired"
    # What is not signed makes no other request of it; what is signed does.
    respelt_by_others = {**recorded, "user-agent": "another", "amz-sdk-invocation-id": "another"}
    assert refusal(respelt_by_others, by=verifier) == "RequestExpired"
    respaced = {**recorded, "authorization": recorded["authorization"].replace(", ", ",  "), "x-amz-target": f" {TARGET}  "}
    assert refusal(respaced, by=verifier) == "RequestExpired"
    verify(signed(at=NOW + 1), by=verifier)
    verify(signed(b"{}"), b"{}", by=verifier)


@pytest.mark.parametrize("ahead", [-SKEW_SECONDS, 0, SKEW_SECONDS])
def test_recording_is_refused_for_as_long_as_its_date_would_pass(ahead: int) -> None:
    times = Times()
    times.passes(-3600)
    verifier = times.verifier()
    times.passes(3600)
    recorded = signed(at=NOW + ahead)
    verify(recorded, by=verifier)
    times.passes(REPEAT_SECONDS + 0.5)
    while times.now < NOW + ahead + SKEW_SECONDS + 20:
        assert refusal(recorded, by=verifier) == "RequestExpired"
        verify(signed(at=times.now), by=verifier)  # meanwhile others are served, and make it forget
        times.passes(7)


def test_recording_is_refused_when_the_clock_was_set_back() -> None:
    times = Times()
    verifier, recorded = times.verifier(), signed()
    verify(recorded, by=verifier)
    times.passes(60)
    times.now -= 59
    assert refusal(recorded, by=verifier) == "RequestExpired"


def test_what_is_remembered_is_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_signatures, "MAX_SEEN", 20)
    times = Times()
    seen = SeenSignatures(lambda: times.up)

    def admit(number: int, at: float) -> None:
        seen.admit(f"{number:064x}", int(at), times.now - SKEW_SECONDS, times.now + SKEW_SECONDS)

    for number in range(20):
        admit(number, NOW + number)
    with pytest.raises(errors.ControlFault) as caught:
        admit(20, NOW)
    assert caught.value.fault == "ThrottlingException" and len(seen) == 20
    admit(0, NOW)  # it is there already: it needs no room
    times.passes(SKEW_SECONDS + 10)  # the first ten are too old to pass
    admit(21, times.now)
    assert len(seen) == 11


def test_request_from_before_the_start_is_refused() -> None:
    """What was served before is not known any more."""
    times = Times()
    first, recorded = times.verifier(), signed()
    verify(recorded, by=first)
    times.passes(1.5)
    second = times.verifier()
    assert refusal(recorded, by=second) == "RequestExpired"
    verify(signed(at=times.now), by=second)  # of the second in which it started
    # A clock that is set right after the start makes no client of the present one of the past, in either direction.
    for step in (-7200, 7200):
        times.now += step
        times.passes(1)
        verify(signed(at=times.now), by=second)
        times.now -= step


# --- over the wire -----------------------------------------------------------------------------------------------------------


def post(url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


async def test_unsigned_request_gets_no_further(api: Api) -> None:
    unsigned = {"X-Amz-Target": "AWSSimbaAPIService_v20180301.DescribeFileSystems"}
    status, answer = await trio.to_thread.run_sync(post, api.url, unsigned, b"{}")
    assert (status, answer["__type"]) == (403, "MissingAuthenticationToken")


@pytest.mark.parametrize(
    ("pair", "region", "code"),
    [
        (KeyPair(PAIR.access_key, "guessed"), REGION, "InvalidSignatureException"),
        (KeyPair("AKIAAAAAAAAAAAAAAAAA", PAIR.secret_key), REGION, "UnrecognizedClientException"),
        (PAIR, "us-east-1", "InvalidSignatureException"),
    ],
)
async def test_stranger_is_refused_in_words_of_aws(api: Api, pair: KeyPair, region: str, code: str) -> None:
    api.boto.close()
    api.boto = client_of(api.url, pair, region)
    refusal = await api.refusal("describe_file_systems")
    assert (refusal["Code"], refusal["Status"]) == (code, 403)


async def test_native_operations_have_no_door_on_tcp(api: Api) -> None:
    def ask() -> tuple[int, dict[str, Any]]:
        request = AWSRequest(method="POST", url=api.url + "/", data=b"{}", headers={"X-Amz-Target": "S3LustreFS.Drain"})
        SigV4Auth(Credentials(PAIR.access_key, PAIR.secret_key), "fsx", REGION).add_auth(request)
        return post(api.url, dict(request.headers.items()), b"{}")

    status, answer = await trio.to_thread.run_sync(ask)
    assert (status, answer["__type"]) == (400, "UnknownOperationException")


async def test_slow_and_enormous_clients_harm_nobody(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_door, "MAX_CONNECTIONS", 4)
    host, port = api.url.removeprefix("http://").split(":")
    async with trio.open_nursery() as nursery:
        idle = [await trio.open_tcp_stream(host, int(port)) for _ in range(10)]
        for stream in idle:
            await stream.send_all(b"POST / HTTP/1.1\r\n")
        enormous = await trio.open_tcp_stream(host, int(port))
        nursery.start_soon(_flood, enormous)
        found = await api.call("describe_data_repository_associations", AssociationIds=[ONE])
        assert found["Associations"]
        # Whoever has waited longest had to go.
        assert await idle[0].receive_some() == b""
        for stream in [*idle, enormous]:
            await stream.aclose()


async def _flood(stream: trio.SocketStream) -> None:
    try:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


# --- key pair and address ---------------------------------------------------------------------------------------------------


def test_key_pair_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "api-credentials"
    made = load_or_make(path, REGION)
    assert load_or_make(path, "other") == made and f"region = {REGION}" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.secret_key not in repr(made) and list(tmp_path.iterdir()) == [path]


async def test_boto3_finds_key_and_region_in_that_file(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    path = tmp_path / "api-credentials"
    server = ApiServer(listen("localhost:0"), api.service, Verifier(load_or_make(path, REGION), REGION))
    await nursery.start(server.run)
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_PROFILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    api.boto.close()
    api.boto = boto3.session.Session().client("fsx", endpoint_url=server.url)
    assert (await api.call("describe_file_systems"))["FileSystems"]


def _opened(path: Path) -> None:
    load_or_make(path, REGION)
    path.chmod(0o640)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_opened, "others may know the key"),
        (lambda path: _write(path, "[default]\naws_access_key_id = x\n"), "holds no key pair"),
        (lambda path: _write(path, "garbage"), "holds no key pair"),
        (lambda path: _write(path, "[default]\naws_access_key_id =\naws_secret_access_key =\n"), "empty key"),
        (lambda path: path.mkdir(), "cannot be used"),
    ],
)
def test_key_file_that_cannot_be_trusted_is_refused_with_the_remedy(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "api-credentials"
    spoil(path)
    with pytest.raises(errors.StateDirError, match=words) as caught:
        load_or_make(path, REGION)
    assert str(path) in str(caught.value) and "delete it" in str(caught.value)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


async def test_address_that_is_taken_is_a_clear_error() -> None:
    taken = listen("127.0.0.1:0")
    async with taken:
        port = taken.socket.getsockname()[1]
        with pytest.raises(errors.ConfigError, match=f"api_listen=127.0.0.1:{port}: Address already in use; choose another"):
            listen(f"127.0.0.1:{port}")


# --- TLS ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, and its key, in one file."""
    return self_signed(tmp_path_factory.mktemp("tls") / "api.pem")


async def test_boto3_talks_tls(api: Api, certificate: Path, nursery: trio.Nursery) -> None:
    server = ApiServer(listen("127.0.0.1:0"), api.service, Verifier(PAIR, REGION), tls(certificate, None))
    await nursery.start(server.run)
    api.boto.close()
    api.boto = client_of(server.url, verify=str(certificate))
    assert server.url.startswith("https://") and (await api.call("describe_file_systems"))["FileSystems"]
    # Somebody who speaks no TLS at all, or goes away in the middle, disturbs nobody.
    host, port = server.url.removeprefix("https://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as plain:
        await plain.send_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
        while await plain.receive_some():
            pass
    assert (await api.call("describe_file_systems"))["FileSystems"]


def test_certificate_that_cannot_be_used_is_a_clear_error(tmp_path: Path, certificate: Path) -> None:
    for path, key in ((tmp_path / "absent", None), (certificate, tmp_path / "absent"), (Path("/etc/passwd"), None)):
        with pytest.raises(errors.ConfigError, match=f"api_certificate={path}, api_key=.*cannot be used"):
            tls(path, key)
