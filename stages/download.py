"""Bring files of the Hugging Face hub to their place, once: `python -m stages.download RUN.json`.

They go through the hub's own cache, which all studies share, and are linked from there. What the cache holds whole
needs no network.
"""

import hashlib
import json
import logging
import os
import shlex
import shutil
import sys
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from httpx2 import TransportError
from huggingface_hub import HfApi, constants, errors, get_cached_repo_tree, snapshot_download, try_to_load_from_cache
from huggingface_hub.file_download import REGEX_COMMIT_HASH, repo_folder_name
from huggingface_hub.hf_api import RepoFile
from tenacity import before_sleep_log, retry, retry_if_exception, stop_after_attempt, wait_exponential

from stages.config import DownloadRun, load_run
from stages.files import link_or_copy, sha256, whole_folder

TIMEOUT = 30  # seconds for the hub's first answer
OURS = {"run.json", "download.json"}
# HTTP errors are OSErrors; a RuntimeError is how xet, the hub's protocol for large files, ends minutes of trying.
FAILURES = (
    OSError,
    RuntimeError,
    TransportError,
    json.JSONDecodeError,
    errors.RevisionResolutionError,
    errors.HFValidationError,
)


def download(run: DownloadRun) -> None:
    """Write the files, and `download.json` with the commit and each file's size [bytes] and sha256.

    Raises:
        ValueError: it cannot be done; which key is at fault, or what to do elsewhere.
    """
    try:
        place(run, *fetch(run))
    except FAILURES as error:
        raise ValueError(_explained(run, _cause(error))) from None


def _cause(error: BaseException) -> BaseException:
    """What the network said, which the hub's library wraps when it has looked in the cache too."""
    while isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError) and error.__cause__:
        error = error.__cause__
    return error


def _is_temporary(error: BaseException) -> bool:
    cause = _cause(error)
    if isinstance(cause, errors.HfHubHTTPError):
        return cause.response.status_code in (408, 429) or cause.response.status_code >= 500
    return isinstance(cause, TransportError)


@retry(
    retry=retry_if_exception(_is_temporary),
    stop=stop_after_attempt(5),
    wait=wait_exponential(multiplier=4),  # 4, 8, 16, 32 seconds
    before_sleep=before_sleep_log(logging.getLogger("download"), logging.WARNING),
    reraise=True,
)
def fetch(run: DownloadRun) -> tuple[str, Path, dict[str, int]]:
    """Complete the snapshot in the hub's cache.

    Returns:
        Its commit, its folder, and the size [bytes] of each file that is wanted.

    Raises:
        ValueError: a pattern matches nothing, or a disk is too small.
        OSError, TransportError: whatever the hub's library raises.
    """
    name, repo, kind, patterns = run.name, run.repo, run.kind, run.files
    commit, sizes = _listing(run)
    wanted = dict[str, int]()
    for pattern in patterns:
        matching = {file: size for file, size in sizes.items() if fnmatchcase(file, pattern)}
        if not matching:
            some = ", ".join([*sorted(sizes)[:9], "..."][: len(sizes)])
            raise ValueError(f"download.{name}.files: {pattern!r} matches no file of {repo} at {commit} ({some})")
        wanted |= matching
    if taken := OURS & wanted.keys():
        raise ValueError(f"download.{name}.files: {min(taken)!r} is what a file of ours is called; leave it out")
    cached = {file: try_to_load_from_cache(repo, file, repo_type=kind, revision=commit) for file in wanted}
    missing = sum(wanted[file] for file in wanted if not isinstance(cached[file], str))
    _check_space(run, missing, sum(wanted.values()))
    # One file at a time: where a connection breaks, the library closes the client that its other threads are using.
    snapshot = snapshot_download(repo, repo_type=kind, revision=commit, allow_patterns=[*patterns], max_workers=1)
    return commit, Path(snapshot), wanted


def _listing(run: DownloadRun) -> tuple[str, dict[str, int]]:
    """The commit, and the size [bytes] of each of its files.

    A snapshot in the cache may be half of one, and without a listing snapshot_download does not notice. So where the
    cache has no listing, the hub is asked, or there is no download.
    """
    api, repo, kind, revision = HfApi(), run.repo, run.kind, run.revision
    if REGEX_COMMIT_HASH.fullmatch(revision) or constants.is_offline_mode():
        with suppress(errors.CachedRepoTreeNotFoundError):
            known = get_cached_repo_tree(repo, repo_type=kind, revision=revision)
            commit = api.resolve_revision(repo, repo_type=kind, revision=revision, local_files_only=True).resolved
            return commit, {file.path: file.size for file in known}
    # The calls below have no time limit: behind a firewall that swallows packets they would wait for hours.
    api.repo_info(repo, repo_type=kind, revision=revision, timeout=TIMEOUT)
    commit = api.resolve_revision(repo, repo_type=kind, revision=revision).resolved
    tree = api.list_repo_tree(repo, repo_type=kind, revision=commit, recursive=True)
    return commit, {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}


def _check_space(run: DownloadRun, missing: int, all_bytes: int) -> None:
    """Stop where a disk is too small: the cache's for what is missing there, another one for a copy of all."""
    cache, out = (
        next(folder for folder in (path, *path.parents) if folder.is_dir())
        for path in (Path(constants.HF_HUB_CACHE).resolve(), Path(run.out).resolve())
    )
    needed = {cache: missing}
    if cache.stat().st_dev != out.stat().st_dev:
        needed[out] = all_bytes
    for folder, size in needed.items():
        if size > (free := shutil.disk_usage(folder).free):
            raise ValueError(
                f"download.{run.name}: {size / 1e9:.3g} GB are to come, but the disk of {folder} has "
                f"{free / 1e9:.3g} GB free; make room, or move the hub's cache (HF_HOME) or the results to another disk"
            )


def place(run: DownloadRun, commit: str, snapshot: Path, sizes: dict[str, int]) -> None:
    """Link a snapshot's files to where they belong, or copy them, if each is what the hub has.

    Raises:
        ValueError: a file is something else. It is no longer in the cache then.
    """
    out, broken, files = Path(run.out), list[str](), dict[str, dict[str, int | str]]()
    with whole_folder(out) as folder:
        for name in sizes:
            cached, file = snapshot / name, folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(cached, file)
            files[name] = {"size": file.stat().st_size, "sha256": sha256(file)}
            # A snapshot links to blobs that the cache names as the hub does: by sha256 if large, else by git's hash.
            blob = cached.parent / os.readlink(cached) if cached.is_symlink() else cached
            stated = blob.name if cached.is_symlink() and len(blob.name) in (40, 64) else None
            digest = _git_hash(file) if stated and len(stated) == 40 else files[name]["sha256"]
            if files[name]["size"] != sizes[name] or stated not in (None, digest):
                broken.append(name)
                for path in (cached.resolve(), blob, cached):
                    path.unlink(missing_ok=True)
        if broken:
            raise ValueError(
                f"download.{run.name}: {', '.join(broken)}: not what the hub has, so no longer in the cache; run this "
                "again to fetch it anew"
            )
        told = {"commit": commit, "files": files} | run.model_dump(include={"repo", "kind", "revision"})
        text = json.dumps(told, indent=2, sort_keys=True) + "\n"
        (folder / "download.json").write_text(text, encoding="utf-8")
    # Readers take what lies here, so nothing of another revision may.
    for path in out.iterdir():
        if path.name not in OURS | {Path(name).parts[0] for name in sizes}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _git_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % path.stat().st_size)).hexdigest()


def _explained(run: DownloadRun, error: BaseException) -> str:
    """A failure with the key at fault and its value, or with the way around a network that is not there."""
    key = f"download.{run.name}"
    page = f"{constants.ENDPOINT}/{'datasets/' if run.kind == 'dataset' else ''}{run.repo}"
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    match error:
        case errors.RevisionNotFoundError():
            return f"{key}.revision: {run.revision!r} is no revision of {run.repo}; see {page}/commits/main"
        case errors.RepositoryNotFoundError() if not isinstance(error, errors.GatedRepoError):
            return (
                f"{key}.repo: {run.repo!r} is no {run.kind} of {constants.ENDPOINT}, or a private one; "
                "correct repo or kind, or log in (`hf auth login`, or HF_TOKEN)"
            )
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return (
                f"{key}.repo: {run.repo!r} is closed to you; accept its terms at {page}, then log in "
                "(`hf auth login`, or HF_TOKEN)"
            )
        case errors.OfflineModeIsEnabled():
            reason = "HF_HUB_OFFLINE is set"
        case json.JSONDecodeError():
            reason = "the answer is not a hub's"
        case RuntimeError():
            reason += "; HF_HUB_DISABLE_XET=1 does without xet"
        case _ if not _is_temporary(error):
            return f"{key}: {reason}"
    include = [part for pattern in run.files for part in ("--include", pattern)]
    revision = ["--repo-type", run.kind, "--revision", run.revision]
    folder = repo_folder_name(repo_id=run.repo, repo_type=run.kind)
    pinned = REGEX_COMMIT_HASH.fullmatch(run.revision)
    setting = {"dataset": "data.<dataset>.problems.<split>.folder", "model": "base.<model>.path"}[run.kind]
    return (
        f"{key}: cannot be fetched from {constants.ENDPOINT} ({reason}), and is not whole in the cache. "
        "Where there is a network, run\n"
        f"    {shlex.join(['hf', 'download', run.repo, *revision, *include])}\n"
        "and bring one of these here (cp -a, rsync -a):\n"
        f"  - from the cache there, ${{HF_HOME:-~/.cache/huggingface}}/hub/{folder}, to {constants.HF_HUB_CACHE}"
        f"{'' if pinned else '; then set HF_HUB_OFFLINE=1, so that nobody asks whether the branch has moved'}\n"
        f"  - with --local-dir FOLDER behind the command, that folder; its path goes into the study: {setting}: FOLDER"
    )


def main(path: str) -> None:
    run = load_run(path, DownloadRun)
    try:
        download(run)
    except ValueError as mistake:
        sys.exit(str(mistake))


if __name__ == "__main__":
    main(sys.argv[1])
