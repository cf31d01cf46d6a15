"""Figures: what was measured, against which target, with what spread; as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One row. `values` are the repeats; `target` None: reported for information."""

    what: str
    unit: str
    values: Sequence[float]
    target: float | None = None
    better: Literal["higher", "lower"] = "higher"
    circumstances: str = ""
    details: dict[str, object] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.median >= self.target if self.better == "higher" else self.median <= self.target


def print_table(figures: Sequence[Figure], console: Console) -> None:
    table = Table(title="median of the repeats against its target")
    for heading in ("what", "measured", "target", "ratio", "min / median / max", "n", "circumstances"):
        table.add_column(heading, justify="left" if heading in ("what", "circumstances") else "right", overflow="fold")
    for figure in figures:
        sign = "≥" if figure.better == "higher" else "≤"
        spread = " / ".join(_number(value) for value in (min(figure.values), figure.median, max(figure.values)))
        table.add_row(
            figure.what,
            f"{_number(figure.median)} {figure.unit}",
            "" if figure.target is None else f"{sign} {_number(figure.target)}",
            _ratio(figure),
            spread,
            str(len(figure.values)),
            figure.circumstances,
        )
    console.print(table)


def save(figures: Sequence[Figure], directory: Path, quick: bool) -> Path:
    """Write one JSON file per run; its name sorts by time."""
    directory.mkdir(exist_ok=True)
    path = directory / time.strftime("%Y%m%dT%H%M%S.json")
    host = {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    rows = [{**asdict(figure), "median": figure.median, "met": figure.met} for figure in figures]
    path.write_text(json.dumps({"host": host, "quick": quick, "figures": rows}, indent=1))
    return path


def _ratio(figure: Figure) -> str:
    if figure.target is None:
        return ""
    style = "green" if figure.met else "bold red"
    text = f"{figure.median / figure.target:.2f}" if figure.target else ("met" if figure.met else "missed")
    return f"[{style}]{text}[/]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
