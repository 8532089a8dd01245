"""A server of the files in a folder, which sends parts of them or not, fails as it is told, or says nothing."""

import re
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread


class _Files(SimpleHTTPRequestHandler):
    def __init__(self, *arguments, server, **options):
        self.owner = server
        super().__init__(*arguments, **options)

    def do_HEAD(self):
        if self._answers():
            super().do_HEAD()

    def do_GET(self):
        if self._answers():
            self._send()

    def _answers(self):
        self.owner.asked.append(self.path)
        self.owner.answering.wait()
        if self.owner.failures:
            self.owner.failures -= 1
            self.send_error(self.owner.failure)
            return False
        return True

    def _send(self):
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
        self.send_header("Accept-Ranges", "bytes" if self.owner.parts else "none")
        super().end_headers()

    def log_message(self, *_):
        pass


class _Server:
    def __init__(self, folder):
        self.asked, self.failures, self.failure, self.parts = [], 0, 503, True
        self.answering = Event()
        self.answering.set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, server=self, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.answering.set()
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
