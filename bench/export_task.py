"""An export task over files that the bucket has already: how long it takes to find out that there is nothing to do."""

from __future__ import annotations

import json
import subprocess
import time

from bench import servers
from bench.candidate import S3LUSTREFS, Candidate, Mounted
from bench.report import Figure
from bench.workplace import Workplace


def run(candidate: Candidate, place: Workplace) -> list[Figure]:
    count = place.sized(100_000, 10_000)
    seconds = []
    with servers.stub("generated", count) as server:
        options = {"posix_metadata": "off", "auto_import": "none", "auto_export": "none"}
        with candidate.mounted(place, server, f"s3://{servers.BUCKET}/", **options) as mounted:
            mounted.wait_imported()
            time.sleep(6.0)  # the table is written
            for _ in range(place.sized(5, 2)):
                start = time.perf_counter()
                task = _export(mounted)
                seconds.append(time.perf_counter() - start)
                _check(task, mounted, count)
    where = f"{count:,} files and their directories, none changed; `s3lustrefs task export --wait`, from its start to its end"
    return [Figure("export task over files that did not change", "s", seconds, 30, "lower", where)]


def _export(mounted: Mounted) -> dict[str, object]:
    command = [S3LUSTREFS, "task", "export", "--mount", mounted.path, "--wait", "--json"]
    done = subprocess.run(command, check=True, env=mounted.environment, capture_output=True)
    return dict(json.loads(done.stdout)["DataRepositoryTask"])


def _check(task: dict[str, object], mounted: Mounted, count: int) -> None:
    status = task["Status"]
    assert isinstance(status, dict)
    if status["SucceededCount"] < count or status["FailedCount"] or mounted.status()["export"]["exported_objects"]:
        raise RuntimeError(f"not an export of {count:,} unchanged files: {task}")
