"""A failpoint kills at the pass it was told, and at no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
from s3lustrefs.failpoints import failpoint
for n in range(3):
    failpoint("other")
    failpoint("here")
    print(n, flush=True)
"""


@pytest.mark.parametrize(
    ("armed", "printed", "status"), [("", "012", 0), ("here", "", -9), ("here:3", "01", -9), ("here:4", "012", 0)]
)
def test_process_dies_at_the_armed_pass(armed: str, printed: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"S3LUSTREFS_FAILPOINT": armed}, capture_output=True, text=True, check=False
    )
    assert ("".join(done.stdout.split()), done.returncode) == (printed, status)
