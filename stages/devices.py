"""A job's own GPUs: a lease on each that ends with the job, however the job ends.

Snakemake only counts GPUs; which of them a job may use is settled here, by locks of the kernel. The lock of a device is
held by the job and by all it forks, so it is free when the last of them is gone, even after SIGKILL.
"""

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOCKS = "GLASSBOX_GPU_LOCKS"
# One folder for everybody on the machine, as two users must not get the same device either; therefore not TMPDIR,
# which may be a user's own. Like /tmp itself it is everybody's to add to, and nobody's to remove from others.
EVERYBODY = "/tmp/glassbox-gpus"
POLL = 0.2  # seconds


def lease(count: int, environ: Mapping[str, str]) -> list[str]:
    """Take `count` devices for this process and its children; waits until so many are free at once.

    Args:
        count: of devices.
        environ: CUDA_VISIBLE_DEVICES names the devices to choose from, else nvidia-smi; GLASSBOX_GPU_LOCKS is the
            folder of the locks, if not everybody's. All who share the devices must name the same folder.

    Returns:
        Their names, for CUDA_VISIBLE_DEVICES.

    Raises:
        ValueError: there are fewer devices, or the folder of the locks cannot be used.
    """
    if count == 0:
        return []
    devices = visible(environ)
    if len(devices) < count:
        raise ValueError(
            f"{count} GPU(s) asked for, {len(devices)} visible ({', '.join(devices) or 'none'}): lower"
            " resources.<stage>.processes in the study file, tell snakemake how many there are (--resources gpu=N), or"
            " choose compute.device: cpu"
        )
    folder = Path(environ.get(LOCKS, EVERYBODY))
    files = {device: folder / f"{_scope(environ)}{device}".replace("/", "_") for device in devices}
    try:
        held = _take(files, count)
        if not held:
            print(f"launch: waiting for {count} of the GPUs {', '.join(devices)}", file=sys.stderr, flush=True)
        while not held:
            time.sleep(POLL)
            held = _take(files, count)
    except OSError as error:
        raise ValueError(f"no lock on a GPU: {error}; {LOCKS}=FOLDER names another folder") from error
    for lock in held.values():
        os.set_inheritable(lock, True)
    return list(held)


def visible(environ: Mapping[str, str]) -> list[str]:
    """The devices that this machine, or a scheduler, lets us use."""
    named = environ.get(VISIBLE)
    if named is None:
        return list(_numbered(environ).values())
    # CUDA takes -1 for "none"; old Slurm wrote NoDevFiles.
    chosen = [name for name in named.replace(" ", "").split(",") if name not in ("", "-1", "NoDevFiles")]
    if _of_slurm(environ):
        return chosen
    # A device has one name, whether one user numbers it or another does not name it at all.
    numbered = _numbered(environ)
    return [numbered.get(name, name) for name in chosen]


def _numbered(environ: Mapping[str, str]) -> dict[str, str]:
    """From nvidia-smi's number of a device to its lasting name; empty where there is no nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, env=environ, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(re.findall(r"^(\d+), (\S+)$", found, re.M))


def _of_slurm(environ: Mapping[str, str]) -> bool:
    return "SLURM_JOB_ID" in environ and VISIBLE in environ


def _scope(environ: Mapping[str, str]) -> str:
    """What the names of devices are unique in.

    Slurm keeps jobs apart and numbers the devices of each from 0, so nobody outside a step is to be waited for; but
    within one several jobs may run, when Snakemake itself was started in an allocation.
    """
    if not _of_slurm(environ):
        return ""
    return "".join(environ.get(part, "") + "-" for part in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURMD_NODENAME"))


def _take(files: Mapping[str, Path], count: int) -> dict[str, int]:
    """Locks on `count` devices, or on none: who held one while waiting for the next could wait for ever."""
    held: dict[str, int] = {}
    for device, path in files.items():
        lock = _open(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            held[device] = lock
        if len(held) == count:
            return held
    for lock in held.values():
        os.close(lock)
    return {}


def _open(path: Path) -> int:
    """A file to lock, which every user can open to read, and nobody needs to write.

    Where the kernel protects files in shared folders, opening another's with O_CREAT is refused even if it exists.
    """
    mask = os.umask(0)
    try:
        path.parent.mkdir(mode=0o1777, parents=True, exist_ok=True)
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            pass
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, 0o444)
        except FileExistsError:  # somebody was faster
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    finally:
        os.umask(mask)
