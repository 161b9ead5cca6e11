"""A hub on this machine, as far as huggingface_hub asks one for files: one repository, its commits, and bad days."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

LARGE = 1000  # bytes from which a file is in LFS, and known by its sha256 instead of git's hash


def git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Hub:
    """Serves `commits` of one repository until the block ends.

    Attributes:
        kind, repo: of the one repository there is.
        commits: path and content of each file, by commit.
        branches: commit, by name.
        gated: files are not given away, although everybody may see which there are.
        fail: status of the next answers to requests whose "METHOD path" a pattern is found in; 0 breaks the connection,
            -1 lets them wait, None answers well.
        cut: files of which the next answer ends after so many bytes, by path.
        garble: files of which the next answer has a wrong byte.
        asked: "METHOD path" of every request, with its Range.
        closed: connections are refused.
    """

    kind: str
    repo: str
    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    fail: list[tuple[str, int | None]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    garble: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (_Answer,), {"of": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Refuse connections from now on."""
        self.closed.set()
        self.fail = [("", 0)] * 1000  # those that are still open
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetched(self) -> list[str]:
        """Paths of the files whose content was asked for, in order."""
        return [found[1] for line in self.asked if (found := re.match(r"GET \S+/resolve/\w+/(\S+)", line))]


class _Answer(BaseHTTPRequestHandler):
    of: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.of, unquote(urlsplit(self.path).path)
        asked = " ".join(filter(None, [self.command, path, self.headers.get("Range")]))
        hub.asked.append(asked)
        if bad := next((bad for bad in hub.fail if re.search(bad[0], asked)), None):
            hub.fail.remove(bad)
            if bad[1] == -1:
                hub.closed.wait()
            if bad[1] is not None:
                return self._send(bad[1]) if bad[1] > 0 else self._break()
        name = re.escape(hub.repo)
        api = re.fullmatch(rf"/api/{hub.kind}s/{name}/(revision|tree)/(.+)", path)
        file = re.fullmatch(rf"/{'datasets/' if hub.kind == 'dataset' else ''}{name}/resolve/([^/]+)/(.+)", path)
        if not (api or file):
            return self._send(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        revision = api[2] if api else file[1] if file else ""
        commit = hub.branches.get(revision, revision)
        if commit not in hub.commits:
            return self._send(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        if api:
            deep = "recursive=true" in self.path.lower()
            tree = [self._entry(*file) for file in hub.commits[commit].items() if deep or "/" not in file[0]]
            said = tree if api[1] == "tree" else {"id": hub.repo, "sha": commit, "siblings": []}
            return self._send(200, {"Content-Type": "application/json"}, json.dumps(said).encode())
        assert file
        if hub.gated:
            return self._send(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        return self._file(commit, file[2], hub.commits[commit][file[2]])

    def _entry(self, path: str, content: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if len(content) >= LARGE:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, commit: str, path: str, content: bytes) -> None:
        large = len(content) >= LARGE
        etag = hashlib.sha256(content).hexdigest() if large else git_hash(content)
        headers = {"X-Repo-Commit": commit, "X-Linked-Etag" if large else "ETag": f'"{etag}"'}
        if self.command == "GET" and path in self.of.garble:
            self.of.garble.remove(path)
            content = bytes([content[0] ^ 1]) + content[1:]
        if begin := int(re.sub(r"\D", "", self.headers.get("Range", "0"))):
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        end = self.of.cut.pop(path, None) if self.command == "GET" else None
        self._send(206 if begin else 200, headers, content[begin:], end)

    def _send(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", end: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:end])
        if end is not None:
            self._break()

    def _break(self) -> None:
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
