"""Values of options as the AWS command line takes them: its shorthand (`A={B=[x,y]},C=z`) or JSON.

Source: AWS Command Line Interface User Guide, "Using shorthand syntax in the AWS CLI".
"""

from __future__ import annotations

import json
import re

from s3lustrefs.errors import UsageError

Value = str | list["Value"] | dict[str, "Value"]

_KEY = re.compile(r"\s*([A-Za-z0-9_.:-]+)\s*=")
_WORD = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^,={}\[\]"']*))\s*""")
_EXAMPLE = "write for example AutoImportPolicy={Events=[NEW,CHANGED]}, or JSON"


def parse(text: str) -> Value:
    """Raises: UsageError."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            found: Value = json.loads(text)
        except ValueError as exc:
            raise UsageError(f"{text!r} is not JSON: {exc}") from exc
        return found
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> Value:
        found = self._pairs()
        if self._at < len(self._text):
            raise self._defect("something is too much")
        return found

    def _pairs(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while True:
            key = _KEY.match(self._text, self._at)
            if key is None:
                raise self._defect("a KEY= is missing")
            if key[1] in found:
                raise self._defect(f"{key[1]} is given twice")
            self._at = key.end()
            found[key[1]] = self._value_or_list()
            if not self._take(","):
                return found

    def _value_or_list(self) -> Value:
        """`a`, or `a,b,c` up to the next key."""
        values = [self._value()]
        while self._peek(",") and _KEY.match(self._text, self._at + 1) is None:
            self._take(",")
            values.append(self._value())
        return values if len(values) > 1 else values[0]

    def _value(self) -> Value:
        if self._take("{"):
            pairs = self._pairs()
            self._expect("}")
            return pairs
        if self._take("["):
            items: list[Value] = []
            while not self._peek("]"):
                items.append(self._value())
                if not self._take(","):
                    break
            self._expect("]")
            return items
        word = _WORD.match(self._text, self._at)
        assert word is not None, "it may be empty"
        self._at = word.end()
        quoted = word[1] if word[1] is not None else word[2]
        return re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else word[3].strip()

    def _peek(self, mark: str) -> bool:
        return self._text[self._at :].lstrip().startswith(mark)

    def _take(self, mark: str) -> bool:
        if not self._peek(mark):
            return False
        self._at = self._text.index(mark, self._at) + 1
        return True

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._defect(f"a {mark} is missing")

    def _defect(self, what: str) -> UsageError:
        return UsageError(f"{self._text!r}: {what} at character {self._at + 1}; {_EXAMPLE}")
