"""Random operations on a mount, among them remounts, SIGKILL, faults of the bucket, changes by others and of policies, against the
reference.

A failure names its seed and a file with the whole trace. `S3LUSTREFS_MODEL_SEED=N` runs that seed instead of a random one,
`S3LUSTREFS_MODEL_SECONDS` is how long the `long` test goes on with ever new seeds (default: an hour).
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.model.choosing import Chooser, Sizes
from tests.model.events import EventChooser
from tests.model.policies import EVERYTHING
from tests.model.session import Session
from tests.model.telling import Telling
from tests.mount.background_proxy import background_proxy
from tests.mount.conftest import fresh_bucket
from tests.mount.site import can_mount, site
from tests.semantics.mounted import put_objects
from tests.servers import S3Server

_STEPS = 200
_LONG_STEPS = 2000
_SEEDS = [1, 2, 3, 4, 5]
_LONG_SECONDS = 3600.0
OPTIONS = "options"
"""In a trace file, beside the operations."""
_ASSOCIATIONS = "".join(
    f'[[dra]]\nfile_system_path = "/{name}"\ndata_repository_path = "s3://BUCKET/{name}/"\nauto_import = []\n\n'
    for name in ("one", "two")
)
"""Without an import policy, unless the options of a life have one."""
_BIG = random.Random(0).randbytes((3 << 20) + 17)
_OBJECTS: list[tuple[str, bytes, dict[str, str]]] = [
    ("one/a", b"without headers", {}),
    ("one/b", _BIG, {"file-permissions": "0100640", "file-owner": "7", "file-group": "8", "file-mtime": "1234567890123456789ns"}),
    ("one/c/", b"", {"file-permissions": "040750", "file-owner": "1", "file-group": "2", "file-mtime": "1500000000000000000ns"}),
    ("one/c/d.txt", b"in a directory", {"project": "theirs"}),
    ("one/f+%/a/b", _BIG[:70_000], {}),
    ("one/ü", b"a", {"file-permissions": "0120777", "file-owner": "0", "file-group": "0", "file-mtime": "5ns"}),
    ("two/a", _BIG[:300_000], {}),
    ("two/d.txt", b"", {}),
]
"""What the bucket holds when it is first mounted: with and without our headers, cold, large and empty."""


@dataclass(frozen=True)
class Style:
    """What a life is about."""

    options: dict[str, str] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)
    outages: bool = True
    imports: bool = False
    """Others change the bucket, too, and an import policy is on."""
    told: bool = False
    """The bucket tells of changes, and policies change at run time."""


_STYLES = [
    Style(sizes=Sizes(large=(17_000_000, 40_000_000), most_bytes=100 << 20, most_local_bytes=100 << 20)),  # in parts
    Style(),
    Style({"cache_size": "10MiB"}, Sizes(2, (300_000, 700_000), (1_200_000,), 24 << 20, 2 << 20), outages=False),  # releasing
    Style({"auto_import": "new+changed+deleted", "import_interval": "1h"}, imports=True),  # looking at mounts and when asked to
    Style({"auto_import": EVERYTHING, "import_interval": "1h", "event_queue_url": "QUEUE"}, told=True),
]
"""By the seed. With a small cache, an outage that lasts would rightly end in ENOSPC."""
needs_mounts = pytest.mark.skipif(not can_mount(), reason="mounting needs /dev/fuse and root")


def run(server: S3Server, name: str, play: Callable[[Session], None], options: dict[str, str]) -> collections.Counter[str]:
    """One mount's life; what happened in it, counted. Raises: AssertionError with how to repeat it."""
    bucket = fresh_bucket(server)
    put_objects(server, bucket, _OBJECTS)
    with (
        background_proxy(server.endpoint_url) as proxy,
        contextlib.closing(Telling(server, bucket)) if "event_queue_url" in options else contextlib.nullcontext() as telling,
        site(server, bucket, endpoint_url=proxy.endpoint_url, options=options) as place,
    ):
        if telling is not None:
            place.options["event_queue_url"] = telling.queue_url
        place.expected_log += [" WARNING ", " ERROR s3lustrefs.movers.exporter: export failed ino="]
        toml = place.scratch / "model.toml"
        toml.write_text(_ASSOCIATIONS.replace("BUCKET", bucket))
        place.source = str(toml)
        session = Session(place, proxy, telling)
        try:
            play(session)
            session.end()
        except BaseException as exc:
            trace = Path(tempfile.gettempdir(), f"s3lustrefs-model-{name}.json")
            trace.write_text(json.dumps({OPTIONS: options, "trace": session.trace}))
            exc.add_note(f"{name}, step {len(session.trace)}: {session.trace[-1]}; python -m tests.model.replay {trace} --minimise")
            session.abandon()
            raise
        faults = collections.Counter({f"{action} (fault)": count for action, count in proxy.hits_by_action().items()})
    return collections.Counter(session.happened) + faults


def run_seed(server: S3Server, seed: int, steps: int, *, stalls: bool = False) -> collections.Counter[str]:
    rng = random.Random(seed)
    style = _STYLES[seed % len(_STYLES)]

    def play(session: Session) -> None:
        events = EventChooser(rng, outages=style.outages, stalls=stalls, imports=style.imports, told=style.told)
        for _ in range(steps):
            event = events.next(session.reference)
            session.do(event if event is not None else Chooser(rng, session.reference, style.sizes).next())

    return run(server, f"seed-{seed}", play, style.options)


@needs_mounts
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", _SEEDS)
def test_mount_does_what_the_reference_does(moto_server: S3Server, seed: int) -> None:
    run_seed(moto_server, seed, _STEPS)


@needs_mounts
@pytest.mark.timeout(600)
def test_mount_does_what_the_reference_does_with_a_seed_of_today(moto_server: S3Server) -> None:
    seed = int(os.environ.get("S3LUSTREFS_MODEL_SEED", secrets.randbelow(1 << 30)))
    print(f"seed {seed}")
    run_seed(moto_server, seed, _STEPS)


@needs_mounts
@pytest.mark.long
@pytest.mark.timeout(0)
def test_mount_does_what_the_reference_does_for_an_hour(moto_server: S3Server) -> None:
    deadline = time.monotonic() + float(os.environ.get("S3LUSTREFS_MODEL_SECONDS", _LONG_SECONDS))
    total: collections.Counter[str] = collections.Counter()
    lives = 0
    while time.monotonic() < deadline:
        total += run_seed(moto_server, secrets.randbelow(1 << 30), _LONG_STEPS, stalls=True)
        lives += 1
        print(f"{lives} mounts, {total.total()} operations: {dict(total.most_common())}", flush=True)
