"""A stand-in for the Hugging Face Hub on this machine: enough of it to list repositories and download files.

What a test wants to go wrong is set in a `Hub`'s fields.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclasses.dataclass
class Hub:
    """What is served, ``owner/name/path`` -> content, and how.

    status : answers every request with this status instead
    headers, listing : of files, and of the description of a repository, sent instead of what is right
    cut_at : bytes of a file after which the connection is dropped, `cuts` times
    pause_at : bytes after which a file stops to come, until `resumed` is set
    requests : method, path and Range of each request
    """

    files: dict[str, bytes]
    private: str = ""
    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    listing: dict[str, object] = dataclasses.field(default_factory=dict)
    cut_at: int = 0
    cuts: int = 0
    pause_at: int = 0
    resumed: threading.Event = dataclasses.field(default_factory=threading.Event)
    requests: list[tuple[str, str, str | None]] = dataclasses.field(default_factory=list)
    address: str = ""

    def repository(self, repo_id: str) -> dict[str, bytes]:
        """The files of a repository by their names in it."""
        return {path[len(repo_id) + 1 :]: data for path, data in self.files.items() if path.startswith(f"{repo_id}/")}


def etag_of(name: str, content: bytes) -> str:
    """SHA-256 for large files, as the Hub has it."""
    return (hashlib.sha256 if name.endswith(".gguf") else hashlib.sha1)(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        hub, path = self.hub, unquote(self.path.split("?")[0]).lstrip("/")
        hub.requests.append((self.command, path, self.headers.get("Range")))
        is_listing = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        repo_id = "/".join(parts[:2])
        files = hub.repository(repo_id)
        if hub.status:
            return self.refuse(hub.status, "")
        if not files:
            return self.refuse(404, "RepoNotFound")
        if hub.private and parts[0] == hub.private and self.headers.get("Authorization") != "Bearer hf_secret":
            return self.refuse(401, "GatedRepo" if parts[1] == "gated" else "RepoNotFound")
        if len(parts) > 3 and parts[3] not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if is_listing:
            return self.send_json(self.listing(repo_id, files) | hub.listing)
        name = "/".join(parts[4:])
        return self.send_file(name, files[name], with_body) if name in files else self.refuse(404, "EntryNotFound")

    def listing(self, repo_id: str, files: dict[str, bytes]) -> dict:
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        return {"id": repo_id, "modelId": repo_id, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0}

    def send_json(self, value: dict) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_file(self, name: str, content: bytes, with_body: bool) -> None:
        given = self.headers.get("Range")
        start = int(given.removeprefix("bytes=").split("-")[0]) if given else 0
        headers = {
            "ETag": f'"{etag_of(name, content)}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": len(content) - start,
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if start else 200)
        for key, value in (headers | self.hub.headers).items():
            self.send_header(key, str(value))
        self.end_headers()
        if with_body:
            self.send_body(content, start)

    def send_body(self, content: bytes, start: int) -> None:
        hub = self.hub
        if hub.cuts and start < hub.cut_at:
            hub.cuts -= 1
            self.wfile.write(content[start : hub.cut_at])
            self.wfile.flush()
            self.close_connection = True
        elif hub.pause_at and start < hub.pause_at:
            self.wfile.write(content[start : hub.pause_at])
            self.wfile.flush()
            hub.resumed.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(content[start:])

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends; `hub.address` is where."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.resumed.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def hub_server(files: dict[str, bytes], private: str = "") -> Iterator[str]:
    """Serve ``owner/name/path`` -> content; repositories of the owner `private` need a token. Yields the address."""
    with serving(Hub(files, private)) as hub:
        yield hub.address
