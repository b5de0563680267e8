"""A stand-in for the Hugging Face Hub on this machine: enough of it to download files from."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_server(files: dict[str, bytes], private: str = ""):
    """Serve ``owner/name/path`` -> content; repositories of the owner `private` need a token. Yields the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            parts = self.path.lstrip("/").split("?")[0].split("/")
            repo, name = "/".join(parts[:2]), "/".join(parts[4:])
            content = files.get(f"{repo}/{name}")
            if not any(path.startswith(f"{repo}/") for path in files):
                return self.refuse(404, "RepoNotFound")
            if private and parts[0] == private and self.headers.get("Authorization") != "Bearer hf_secret":
                return self.refuse(401, "GatedRepo" if parts[1] == "gated" else "RepoNotFound")
            if parts[3] not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            if content is None:
                return self.refuse(404, "EntryNotFound")
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(content)
            return None

        def refuse(self, status, code):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
