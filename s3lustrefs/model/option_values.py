"""Text of an option or TOML value → checked value, as pure functions.

Each takes what -o gave (a str, or True for a bare word) or what TOML gave, and raises ValueError with the end of a
sentence that starts with the offending option: what is wrong, and an example of what would be right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from s3lustrefs.model.association import EVENTS

_SIZE_UNITS = {"": 1, "B": 1} | {
    unit: factor
    for power, letter in enumerate("KMGTP", start=1)
    for unit, factor in ((letter, 1 << 10 * power), (f"{letter}IB", 1 << 10 * power), (f"{letter}B", 1000**power))
}
EVENT_QUEUE_WORDS = ("auto", "create", "off")
_TIME_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(value: object) -> int:
    """Bytes. `G` and `GiB` are powers of 1024, `GB` of 1000."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", parse_text(value))
        if not match or match[2].upper() not in _SIZE_UNITS:
            raise ValueError("is not a size; write for example 500GiB")
        size = (
            int(float(match[1]) * _SIZE_UNITS[match[2].upper()])
            if "." in match[1]
            else int(match[1]) * _SIZE_UNITS[match[2].upper()]
        )
    if size < 1 << 20:
        raise ValueError("is too small; at least 1MiB, for example 500GiB")
    return size


def parse_seconds(value: object) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", parse_text(value))
    if not match:
        raise ValueError("is not a length of time; write for example 300, 90s or 5m (0: never)")
    return float(match[1]) * _TIME_UNITS[match[2]]


def parse_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("needs a value" if value is True else "must be a string")
    text = str(value).strip()
    if not text:
        raise ValueError("is empty")
    return text


def parse_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = parse_text(value).lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError("is neither true nor false")


def parse_mode(value: object) -> int:
    """Permission bits. A TOML integer counts as it is written (0o640), so that decimal 644 is refused rather than misread."""
    mode = value if isinstance(value, int) and not isinstance(value, bool) else -1
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{3,5}", value):
        mode = int(value.removeprefix("0o"), 8)
    if not 0 <= mode <= 0o777:
        raise ValueError('is not an octal mode of at most 0777; write for example "0644"')
    return mode


def parse_user_id(value: object) -> int:
    text = parse_text(value)
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32 - 1:
        raise ValueError("is not a numeric id; write for example 1000")
    return int(text)


def parse_chunk_mib(value: object) -> int:
    text = parse_text(value)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 512000:
        raise ValueError("is not a number of MiB from 1 to 512000; the default is 1024")
    return int(text)


def parse_events(value: object) -> frozenset[str]:
    words = value if isinstance(value, list) else [] if value in ("", "none") else parse_text(value).split("+")
    events = frozenset(str(word).strip().upper() for word in words)
    if not events <= frozenset(EVENTS):
        raise ValueError("must be new, changed, deleted joined by '+' (in TOML a list of them), or none")
    return events


def parse_choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return parse


def parse_url(value: object) -> str:
    text = parse_text(value)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("is not a URL; write for example https://s3.example.org:9000")
    return text.rstrip("/")


def parse_listen(value: object) -> str:
    host, _, port = parse_text(value).rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("is not HOST:PORT; write for example 127.0.0.1:8987")
    return f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether only this host can reach HOST:PORT."""
    host = address.rpartition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def parse_event_queue(value: object) -> str:
    """`auto`, `create`, `off`, or the URL of a queue."""
    if value in EVENT_QUEUE_WORDS:
        return str(value)
    try:
        return parse_url(value)
    except ValueError:
        raise ValueError("must be auto, create, off, or the URL of an SQS queue") from None
