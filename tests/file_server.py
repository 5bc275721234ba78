"""A web server on this machine that resumes downloads, and can fail in the ways that servers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """What it serves, what it was asked for, and its faults."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path -> content."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of each request."""
    resumes: bool = True
    """Heeds Range."""
    lies: bool = False
    """Sends other bytes than asked for, and says so."""
    cut_after: int | None = None
    """Ends the connection after so many bytes."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers["Range"]
        self.asked.append((request.path, wanted))
        data = self.files.get(request.path)
        if data is None:
            request.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if self.resumes and wanted else 0
        if start >= len(data):
            request.send_error(416)
            return
        request.send_response(206 if self.resumes and wanted else 200)
        if self.resumes and wanted:
            start = 1 if self.lies else start
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if request.command == "HEAD":
            return
        request.wfile.write(data[start:] if self.cut_after is None else data[start:][: self.cut_after])


@contextmanager
def serve() -> Iterator[Server]:
    """Yields a server that runs until the block ends."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        do_HEAD = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()
