"""Every benchmark starts as documented, `python benchmarks/NAME.py`, from any folder; and what benchmarks share."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import commit, found_by, keep

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# The repository is not on the path when Python starts a script of a folder. All in one process, for speed.
START = """
import runpy, sys
repository, *scripts = sys.argv[1:]
for script in scripts:
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if path != repository]
    try:
        runpy.run_path(script, run_name="not main")
    except Exception as error:
        print(f"{script}: {error!r}")
"""


def test_every_script_finds_what_it_imports(tmp_path: Path) -> None:
    scripts = [str(path) for path in sorted(BENCHMARKS.glob("*.py")) if '__name__ == "__main__"' in path.read_text()]
    assert len(scripts) > 10
    command = [sys.executable, "-c", START, str(BENCHMARKS.parent), *scripts]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (said.returncode, said.stdout) == (0, ""), said.stderr


def test_what_is_kept_has_the_version_of_the_code_and_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text('{"old": {"seconds": 1}, "again": {"seconds": 2}}')
    keep(path, {"again": {"seconds": 3}})
    assert json.loads(path.read_text()) == {"old": {"seconds": 1}, "again": {"commit": commit(), "seconds": 3}}


def test_a_process_of_its_own_gives_its_last_line_or_says_why_not(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('warm')\nprint(1 / int(sys.argv[1]))")
    assert found_by(str(script), 2) == 0.5
    script.write_text("import os\nprint(os.environ['THREADS'])")
    assert found_by(str(script), THREADS="1") == 1
    script.write_text("1 / 0")
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        found_by(str(script))
