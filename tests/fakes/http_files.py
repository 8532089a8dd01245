"""A server of the files in a folder, which sends parts of them or not, and fails as often as it is told."""

import re
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class _Files(SimpleHTTPRequestHandler):
    def __init__(self, *arguments, server, **options):
        self.owner = server
        super().__init__(*arguments, **options)

    def do_GET(self):
        self.owner.asked.append(self.path)
        if self.owner.failures:
            self.owner.failures -= 1
            self.send_error(503)
            return
        path, wanted = (
            Path(self.translate_path(self.path)),
            re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or ""),
        )
        if not (self.owner.parts and wanted and path.is_file()):
            super().do_GET()
            return
        size = path.stat().st_size
        first, last = int(wanted[1]), min(int(wanted[2]), size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            self.wfile.write(file.read(last - first + 1))

    def end_headers(self):
        if self.owner.parts:
            self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_):
        pass


class _Server:
    def __init__(self, folder):
        self.asked, self.failures, self.parts = [], 0, True
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, server=self, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def served(folder):
    """Serve a folder until the end of a block; yield the server, whose ``url`` is that of the folder."""
    server = _Server(folder)
    try:
        yield server
    finally:
        server.close()
