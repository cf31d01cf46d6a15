"""`python -m bench [NAME...]`: run the measuring programs and print one table."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import (
    bucket_events,
    cold_sequential,
    cold_small,
    create_small,
    describe,
    export_rate,
    export_task,
    find_entries,
    import_listing,
    rename_rate,
    resident_sequential,
    stat_again,
    sweep_deletions,
    sweep_listing,
)
from bench.candidate import Candidate, S3LustreFS
from bench.report import Figure, print_table, save
from bench.workplace import ROOT, Workplace, workplace

Program = Callable[[Candidate, Workplace], list[Figure]]

PROGRAMS: dict[str, Program] = {
    "import": import_listing.run,
    "describe": describe.run,
    "sweep": sweep_listing.run,
    "sweep-deletions": sweep_deletions.run,
    "find": find_entries.run,
    "stat": stat_again.run,
    "cold-sequential": cold_sequential.run,
    "cold-small": cold_small.run,
    "resident": resident_sequential.run,
    "create": create_small.run,
    "events": bucket_events.rate,
    "lag": bucket_events.lag,
    "export-rate": export_rate.run,
    "export-task": export_task.run,
    "rename-rate": rename_rate.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure a mount. Example: ./dev bench import find --quick")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to run (default: all): {', '.join(PROGRAMS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats, to see that everything runs")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where state and content go (default: %(default)s)"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in PROGRAMS]
    if unknown:
        parser.error(f"no such program: {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    if os.geteuid() != 0:
        parser.error("dropping the kernel's caches needs root")
    console = Console()
    figures, failed = [], False
    for name in arguments.names or PROGRAMS:
        console.print(f"[bold]{name}[/] ...")
        try:
            with workplace(arguments.scratch, arguments.quick) as place:
                figures += PROGRAMS[name](S3LustreFS(), place)
        except Exception:  # noqa: BLE001 - one program that fails must not cost the figures of the others
            failed = True
            console.print(f"[bold red]{name} failed[/]")
            console.print(traceback.format_exc(), highlight=False, markup=False)
    if figures:
        print_table(figures, console)
        console.print(f"written to {save(figures, ROOT / 'bench' / 'results', arguments.quick)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
