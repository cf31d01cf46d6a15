"""The AWS command line, unmodified, for many command lines in one process: most of what one costs is its start."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from s3lustrefs.control.api_credentials import KeyPair

_PROGRAM = """
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver
driver, done = create_clidriver(), []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = driver.main(arguments)
        except SystemExit as exc:
            status = exc.code
    done.append([status, out.getvalue(), err.getvalue()])
json.dump(done, sys.stdout)
"""


@dataclass(frozen=True)
class Said:
    """What one command line came to."""

    status: int
    out: str
    err: str


async def run_all(url: str, pair: KeyPair, region: str, lines: Sequence[Sequence[str]]) -> list[Said]:
    """`aws fsx WORDS...` for each of them, in order. Nothing of the user's own configuration counts."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {
        "AWS_ENDPOINT_URL_FSX": url, "AWS_DEFAULT_REGION": region, "AWS_DEFAULT_OUTPUT": "json", "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_ACCESS_KEY_ID": pair.access_key, "AWS_SECRET_ACCESS_KEY": pair.secret_key,
    }  # fmt: skip
    given = json.dumps([["fsx", *words] for words in lines]).encode()
    done = await trio.run_process([sys.executable, "-c", _PROGRAM], stdin=given, capture_stdout=True, env=environment)
    return [Said(*each) for each in json.loads(done.stdout)]
