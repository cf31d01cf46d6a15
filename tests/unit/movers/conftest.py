"""What histories at random share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def quiet() -> Iterator[None]:
    """Thousands of warnings and errors that were provoked."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)
