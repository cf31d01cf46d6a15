"""The table from answers to exceptions, for answers no test server can be made to give."""

from __future__ import annotations

import pytest

from s3lustrefs import errors
from s3lustrefs.repository.replies import Response, bare_etag, error_of, http_time_ns, xml_fields, xml_root, xml_tags


def xml(code: str, message: str = "words", extra: str = "") -> bytes:
    return f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{message}</Message>{extra}</Error>".encode()


def meant(status: int, body: bytes = b"", headers: dict[str, str] | None = None, **options: object) -> errors.RepositoryError:
    response = Response(status, headers or {}, body)
    return error_of(response, "reset", operation="GetObject", bucket="b", key=b"k\xc3\xa4\xff", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, xml("NoSuchKey"), errors.ObjectNotFound),
        (404, xml("NoSuchVersion"), errors.ObjectNotFound),
        (404, b"", errors.ObjectNotFound),
        (404, b"<html>nothing</html>", errors.ObjectNotFound),
        (404, xml("NoSuchBucket"), errors.BucketNotFound),
        (404, xml("NoSuchUpload"), errors.RepositoryUnavailable),
        (412, xml("PreconditionFailed"), errors.ObjectChanged),
        (412, b"", errors.ObjectChanged),
        (409, xml("ConditionalRequestConflict"), errors.ObjectChanged),
        (409, xml("OperationAborted"), errors.RepositoryUnavailable),
        (403, xml("InvalidObjectState"), errors.ObjectArchived),
        (403, xml("AccessDenied"), errors.RepositoryDenied),
        (403, b"", errors.RepositoryDenied),
        (403, xml("RequestTimeTooSkewed"), errors.RepositoryDenied),
        (400, xml("ExpiredToken"), errors.RepositoryDenied),
        (400, xml("InvalidToken"), errors.RepositoryDenied),
        (400, xml("RequestTimeout"), errors.RepositoryUnavailable),
        (400, xml("InvalidArgument"), errors.RepositoryRejected),
        (400, xml("KeyTooLongError"), errors.KeyNotExportable),
        (400, xml("EntityTooLarge"), errors.ObjectTooLarge),
        (429, b"", errors.RepositoryUnavailable),
        (503, xml("SlowDown"), errors.RepositoryUnavailable),
        (502, b"<html>bad gateway", errors.RepositoryUnavailable),
        (500, b"", errors.RepositoryUnavailable),
        (501, xml("NotImplemented"), errors.RepositoryRejected),
        (200, xml("InternalError"), errors.RepositoryUnavailable),
        (200, xml("SlowDown"), errors.RepositoryUnavailable),
        (301, xml("PermanentRedirect"), errors.RepositoryRejected),
        (0, b"", errors.RepositoryUnavailable),
    ],
)
def test_answers_and_their_meaning(status: int, body: bytes, kind: type[errors.RepositoryError]) -> None:
    error = meant(status, body)
    assert type(error) is kind
    assert (error.bucket, error.key) == ("b", "kä\\xff")
    assert str(error).startswith("s3://b/kä\\xff: GetObject: ")


def test_a_request_can_mean_something_else_by_a_code_or_a_status() -> None:
    assert type(meant(416, b"", meaning={"416": errors.ObjectChanged})) is errors.ObjectChanged
    assert type(meant(404, xml("NoSuchKey"), meaning={"NoSuchKey": errors.ObjectChanged})) is errors.ObjectChanged
    assert type(meant(404, xml("NoSuchBucket"), meaning={"404": errors.ObjectChanged})) is errors.BucketNotFound


def test_a_wrong_region_names_the_right_one() -> None:
    assert "set region=eu-west-1" in str(meant(301, b"", {"x-amz-bucket-region": "eu-west-1"}))
    assert "set region=eu-west-3" in str(meant(400, xml("AuthorizationHeaderMalformed", extra="<Region>eu-west-3</Region>")))


def test_no_secret_and_no_signature_reaches_a_message() -> None:
    body = xml("SignatureDoesNotMatch", "key AKIA1 with s/cr+et and Signature=abcdef0123, X-Amz-Credential=AKIA1/x got tok==")
    text = str(meant(403, body, secrets=("s/cr+et", "tok==", "AKIA1", "")))
    for secret in ("AKIA1", "s/cr+et", "tok==", "abcdef0123"):
        assert secret not in text
    assert "SignatureDoesNotMatch" in text


def test_long_reasons_are_cut() -> None:
    assert len(str(meant(400, xml("InvalidArgument", "x" * 5000)))) < 400


def test_xml_of_any_kind_is_read_or_left() -> None:
    assert xml_fields(b'<R xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><ETag>"x"</ETag></R>') == {"": "R", "ETag": '"x"'}
    assert xml_fields(b"\n\n   <R></R>") == {"": "R"}
    assert xml_fields(b"no xml") == {}
    assert xml_root(b"") == ""
    assert xml_root(b"\x00\xff<") == ""
    assert xml_tags(b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag><Tag><Key>c</Key></Tag></TagSet></Tagging>") == [
        ("a", "b"),
        ("c", ""),
    ]
    with pytest.raises(ValueError, match="not XML"):
        xml_tags(b"")


def test_etags_and_dates() -> None:
    assert bare_etag('"abc-2"') == bare_etag("abc-2") == bare_etag('W/"abc-2"') == "abc-2"
    assert http_time_ns("Fri, 20 Nov 2026 11:31:42 GMT") == 1795174302 * 10**9
    assert http_time_ns("yesterday") == http_time_ns("") == 0
