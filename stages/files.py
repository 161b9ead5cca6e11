"""Files that appear whole or not at all."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into; its entries move into `path` when the block ends well, else nothing does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        path.mkdir(exist_ok=True)
        for entry in sorted(partial.iterdir()):
            target = path / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name, or where that is impossible (another disk) a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or where it is to be made; None if something can.

    Asked by writing, because neither permissions nor free blocks tell of quotas, and libraries hide the system's error.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(2**20))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return f"{existing}: {why_full(error) or error.strerror}"
    return None


def why_full(error: BaseException | None) -> str | None:
    """What to tell of an error whose cause is that a disk is full or must not be written; None for any other."""
    while error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            advice = "" if error.errno == errno.EROFS else " (make room, then start again)"
            return f"{os.strerror(error.errno).lower()}{advice}"
        error = error.__cause__ or error.__context__
    return None


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class GrowingFile:
    """A file that is only added to, and its hash; what was hashed before is not read again."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._digest = hashlib.sha256()

    def sha256(self) -> tuple[int, str]:
        """Its size in bytes and hex digest, as it is now."""
        with self.path.open("rb") as file:
            file.seek(self.size)
            while part := file.read(2**20):
                self._digest.update(part)
                self.size += len(part)
        return self.size, self._digest.hexdigest()


def sha256_of_beginning(path: Path, size: int) -> str:
    """Hex digest of a file's first bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size and (part := file.read(min(size, 2**20))):
            digest.update(part)
            size -= len(part)
    return digest.hexdigest()


def synced(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, text: str) -> None:
    """Write a file and wait until it is on the disk."""
    path.write_text(text, encoding="utf-8")
    synced(path)
