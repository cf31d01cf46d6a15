"""Client of control/server: one operation, one HTTP request on the control socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator

from s3lustrefs.errors import ControlFault, DaemonUnreachable

CONTENT_TYPE = "application/x-amz-json-1.1"
NATIVE_PREFIX = "S3LustreFS"
ANSWER_SECONDS = 30.0


@contextlib.contextmanager
def reachable_address(path: str) -> Iterator[str]:
    """An address for a socket at any path: the kernel takes 107 bytes only, so the directory goes in as a descriptor."""
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


class _Connection(http.client.HTTPConnection):
    def __init__(self, socket_path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with reachable_address(self._socket_path) as address:
            self.sock.connect(address)


class ControlClient:
    """Operations of one mount's daemon."""

    def __init__(self, socket_path: str, *, prefix: str = NATIVE_PREFIX, timeout: float | None = ANSWER_SECONDS) -> None:
        self._socket_path = socket_path
        self._prefix = prefix
        self._timeout = timeout

    def call(self, operation: str, **request: object) -> dict[str, object]:
        """The operation's answer.

        Raises: DaemonUnreachable when nobody answers; ControlFault with the daemon's own words when it refuses.
        """
        connection = _Connection(self._socket_path, self._timeout)
        headers = {"Content-Type": CONTENT_TYPE, "X-Amz-Target": f"{self._prefix}.{operation}"}
        try:
            connection.request("POST", "/", json.dumps(request).encode(), headers)
            response = connection.getresponse()
            answer = json.loads(response.read() or b"{}")
        except PermissionError as exc:
            raise DaemonUnreachable(f"{self._socket_path}: only the owner of the mount may ask its daemon; try with sudo") from exc
        except TimeoutError as exc:
            raise DaemonUnreachable(f"{self._socket_path}: no answer within {self._timeout:.0f} s") from exc
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise DaemonUnreachable(f"no daemon answers on {self._socket_path}: {exc}") from exc
        finally:
            connection.close()
        if response.status != 200:
            raise ControlFault(str(answer.get("Message") or answer), fault=str(answer.get("__type", "InternalServerError")))
        return dict(answer)
