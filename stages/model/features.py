"""What the frozen vision tower made of pictures, kept: in memory, then on the disk, where several processes share it.

Vision tower and connector never change (paper, Sec. 5.1). What they make of a picture is then decided by their weights,
the picture, how it is cut into patches, and the arithmetic of the machine; a file's name is the digest of all of these,
so that what is found under it is, bit for bit, what would be computed.

Letters: V image tokens of a picture, H width of the language model, D levels of features beyond the last.
"""

import contextlib
import hashlib
import logging
import os
import platform
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from stages.config import Compute
from stages.model.parts import parts

log = logging.getLogger(__name__)

VERSION = 1  # of how features are computed and laid out: with another one, no file of before is read
MB = 10**6


@dataclass(frozen=True)
class FeatureLimits:
    """How much is kept; what is not is computed again.

    Attributes:
        memory_mb: of each process, in the host's memory.
        disk_mb: of all processes, in files; 0 = none are written or read.
        folder: of the files; nothing else in it is touched.
    """

    memory_mb: int
    disk_mb: int
    folder: Path


IN_MEMORY = FeatureLimits(memory_mb=2000, disk_mb=0, folder=Path("features"))


class Features:
    """Pictures' features, each computed once while there is room for it.

    Args:
        limits: how much is kept.
        maker: digest of all that features depend on but the picture, asked for if files are kept.
    """

    def __init__(self, limits: FeatureLimits, maker: Callable[[], str]) -> None:
        self._most = limits.memory_mb * MB
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self._size = 0
        self._files = _Files(limits.folder, limits.disk_mb * MB, maker()) if limits.disk_mb else None

    def __contains__(self, picture: str) -> bool:
        """Whether a picture's features are in memory."""
        return picture in self._memory

    def find(self, picture: str, compute: Callable[[], Tensor]) -> Tensor:
        """[V, H * (1 + D)] on the host: a picture's features, from memory or a file, or else computed.

        Args:
            picture: its digest.
            compute: looks at it.
        """
        features = self._memory.get(picture)
        if features is None:
            features = self._files.find(picture, compute) if self._files else compute().cpu()
        self.keep(picture, features)
        return features

    def keep(self, picture: str, features: Tensor) -> None:
        """They were used now; beyond the room in memory, those are given up that were not used for longest."""
        if picture not in self._memory:
            self._memory[picture] = features
            self._size += features.nbytes
        self._memory.move_to_end(picture)
        while self._size > self._most:
            self._size -= self._memory.popitem(last=False)[1].nbytes


class _Files:
    """A folder with a file for each picture, whole or not there, and trusted only if its digest is right.

    Processes know nothing of each other. Each looks through the folder again when it has written a 64th of the limit,
    and from seven eighths on removes what was not used for longest, so that eight that write at once stay within it.
    """

    def __init__(self, folder: Path, most: int, maker: str) -> None:
        self.folder, self.most, self.maker = folder, most, maker
        self._room = 0  # bytes to be written before the folder is looked through
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, picture: str, compute: Callable[[], Tensor]) -> Tensor:
        key = _digest(self.maker, picture)
        path = self.folder / f"{key}.safetensors"
        features = _read(path, key)
        if features is None:
            features = compute().cpu()
            try:
                self._write(path, save({"features": features, "digest": _seal(key, features)}))
            except OSError as error:  # a full disk costs time, and no training
                log.warning("%s: features are not kept there any more (%s)", self.folder, error.strerror)
                self.most = 0
            return features
        with contextlib.suppress(FileNotFoundError):  # another process has just made room
            os.utime(path)  # the time of use, which file systems themselves often do not note
        return features

    def _write(self, path: Path, content: bytes) -> None:
        if len(content) > self.most:
            return
        if len(content) > self._room:
            self._make_room(len(content))
        self._room -= len(content)
        descriptor, name = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            with contextlib.suppress(FileNotFoundError):  # another process has made room with it
                partial.chmod(self.folder.stat().st_mode & 0o666)  # it would be readable to nobody else
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        """Remove the files that were not used for longest, so that `needed` bytes may be written."""
        files = sorted(self._held())
        size = needed + sum(file[1] for file in files)
        if size > self.most * 7 // 8:
            for _, taken, path in files:
                if size <= self.most * 3 // 4:
                    break
                path.unlink(missing_ok=True)
                size -= taken
        self._room = max(needed, self.most // 64)

    def _held(self) -> Iterator[tuple[int, int, Path]]:
        """When each file was used, its bytes and its path; among them is what a killed process left half-written."""
        for path in self.folder.iterdir():
            if path.suffix in (".safetensors", ".partial"):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    yield stat.st_mtime_ns, stat.st_size, path


def picture_digest(picture: Image.Image) -> str:
    """Of an image's size and pixels, whatever its file."""
    return _digest(picture.mode, picture.size, picture.tobytes())


def maker_digest(model: PreTrainedModel, image_processor: Any, compute: Compute) -> str:
    """Of all that a picture's features depend on, but for the picture.

    Args:
        model: its vision tower and connector; each weight's name, type, shape and bytes.
        image_processor: how a picture is cut into patches, with the pixel budget.
        compute: the device, type and threads of the computation; with them go the kind of processor and the versions
            of the libraries, for other ones round otherwise.
    """
    digest = hashlib.sha256()
    for part in ("vision", "connector"):
        for name, weight in parts(model)[part].items():
            digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
            digest.update(_bytes(weight.detach()))
    on_gpu = compute.device == "cuda"
    machine = (
        torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    )
    made = (
        machine,
        torch.__version__,
        transformers.__version__,
        compute.model_dump_json(),
        image_processor.to_json_string(),
    )
    return _digest(VERSION, digest.hexdigest(), *made)


def _read(path: Path, key: str) -> Tensor | None:
    """What a file holds, if it is there and as it was written."""
    try:
        # Not mapped into memory: another process may remove it meanwhile.
        found = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    if found.keys() != {"features", "digest"} or not torch.equal(found["digest"], _seal(key, found["features"])):
        return None
    return found["features"]


def _seal(key: str, features: Tensor) -> Tensor:
    """[32] bytes by which features are known to be those of a key, as they were written."""
    digest = _digest(key, features.dtype, list(features.shape), _bytes(features))
    return torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _digest(*parts: object) -> str:
    """Hex digest of some things, each as its bytes or text with its length, so that no two lists look alike."""
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        digest.update(f"{len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()
