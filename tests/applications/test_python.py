"""Python lives here: an environment, packages installed into it, arrays mapped from files."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tests.applications.conftest import Workplace

_MAPPING = """
import sys
import numpy
path, shape = sys.argv[1], (300, 1000)
made = numpy.memmap(path, dtype="float64", mode="w+", shape=shape)
made[:] = numpy.arange(300_000).reshape(shape)
made.flush()
del made
changed = numpy.memmap(path, dtype="float64", mode="r+", shape=shape)
changed[100:200] *= -1
changed.flush()
"""


def _wheel(folder: Path) -> Path:
    """A package of one module and a command, as a wheel."""
    path = folder / "greeting-1.0-py3-none-any.whl"
    files = {
        "greeting/__init__.py": "def main() -> None:\n    print('hello from the mount')\n",
        "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "greeting-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    files["greeting-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*files, "greeting-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("kind", ["without pip", pytest.param("with pip", marks=pytest.mark.long)])
def test_environment_is_made_and_a_package_installed(workplace: Workplace, kind: str) -> None:
    environment = workplace.root / "environment"
    python = environment / "bin/python"
    wheel = _wheel(workplace.elsewhere)
    options = ["--no-index", "--disable-pip-version-check", "--no-warn-script-location", "-q"]
    if kind == "with pip":
        workplace.run(sys.executable, "-m", "venv", environment)
        workplace.run(python, "-m", "pip", "install", *options, wheel)
    else:
        workplace.run(sys.executable, "-m", "venv", "--without-pip", environment)
        workplace.run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    assert workplace.run(environment / "bin/greet") == "hello from the mount\n"
    workplace.settle()
    assert workplace.run(environment / "bin/greet") == "hello from the mount\n"


def test_numpy_memmap(workplace: Workplace) -> None:
    path = workplace.root / "array"
    workplace.run(sys.executable, "-c", _MAPPING, path)
    workplace.settle()
    check = (
        "import numpy, sys; found = numpy.memmap(sys.argv[1], dtype='float64', mode='r', shape=(300, 1000));"
        "expected = numpy.arange(300_000.0).reshape(300, 1000); expected[100:200] *= -1; print((found == expected).all())"
    )
    assert workplace.run(sys.executable, "-c", check, path) == "True\n"
