"""make -j builds a C program here, and knows afterwards what is up to date."""

from __future__ import annotations

import time
from pathlib import Path

from tests.applications.conftest import Workplace

_MODULES = 12
_MAKEFILE = """
objects := $(patsubst %.c,%.o,$(wildcard *.c))
program: $(objects) libparts.a
\tgcc -o $@ $(objects)
libparts.a: $(objects)
\tar rcs $@ $^
%.o: %.c common.h
\tgcc -O1 -c -o $@ $<
"""


def _sources(root: Path) -> None:
    (root / "common.h").write_text("#define STEP 1\n")
    for number in range(_MODULES):
        (root / f"part{number}.c").write_text(f'#include "common.h"\nint part{number}(void) {{ return {number} * STEP; }}\n')
    declared = "".join(f"int part{number}(void);\n" for number in range(_MODULES))
    total = " + ".join(f"part{number}()" for number in range(_MODULES))
    (root / "main.c").write_text(f'#include <stdio.h>\n{declared}int main(void) {{ printf("%d\\n", {total}); return 0; }}\n')
    (root / "Makefile").write_text(_MAKEFILE)


def test_make_builds_in_parallel_and_only_what_changed(workplace: Workplace) -> None:
    _sources(workplace.root)
    make: list[str | Path] = ["make", "-s", "-j4", "-C", workplace.root]
    workplace.run(*make)
    assert workplace.run(workplace.root / "program") == "66\n"
    workplace.settle()
    workplace.run(*make, "-q")  # nothing to do, says its exit status
    newer_than = max(path.stat().st_mtime_ns for path in workplace.root.iterdir())
    while time.time_ns() <= newer_than:
        continue
    (workplace.root / "part7.c").write_text("int part7(void) { return 1000; }\n")
    again = workplace.run("make", "-n", "-C", workplace.root)
    assert again.count("gcc -O1") == 1 and "part7.c" in again
    workplace.run(*make)
    assert workplace.run(workplace.root / "program") == f"{66 - 7 + 1000}\n"
