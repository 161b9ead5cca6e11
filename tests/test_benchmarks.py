"""Every benchmark starts as its documentation says, `python benchmarks/NAME.py`, from any folder."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# What Python does for a script: its folder, and not the repository, is on the path. All in one process, for speed.
START = """
import runpy, sys
for script in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    sys.path[:] = [PATH for PATH in sys.path if PATH != REPOSITORY]
    try:
        runpy.run_path(script, run_name="not main")
    except Exception as error:
        print(f"{script}: {error!r}")
"""


def test_every_script_finds_what_it_imports(tmp_path: Path) -> None:
    scripts = [str(path) for path in sorted(BENCHMARKS.glob("*.py")) if '__name__ == "__main__"' in path.read_text()]
    assert len(scripts) > 10
    start = START.replace("REPOSITORY", repr(str(BENCHMARKS.parent)))
    command = [sys.executable, "-c", start, *scripts]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (said.returncode, said.stdout) == (0, ""), said.stderr
