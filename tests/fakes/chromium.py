"""A headless Chromium over the pipe of its DevTools protocol: a viewport may be as narrow as a phone."""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import signal
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60
"""Seconds to wait for an answer."""
MEASURE = "[document.documentElement.scrollWidth, innerWidth, document.querySelector('.scroll')?.scrollWidth ?? 0]"


def find():
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def _pipe():
    """Return the ends of a pipe, above those that the browser reads and writes: 3 and 4."""
    ends = os.pipe()
    found = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return found


@dataclass
class Shown:
    """A page as it is shown.

    Attributes
    ----------
    width, viewport, inside : int
        Of the whole page, of what is visible, and of the first box that scrolls by itself.
    pixels : uint8 array
    console : list of str
        Messages of the console and uncaught errors.
    requests : list of str
        Addresses that were asked for besides the page's own.
    """

    width: int
    viewport: int
    inside: int
    pixels: np.ndarray
    console: list
    requests: list


class Chromium:
    """A browser until `close`."""

    def __init__(self, program, profile):
        (reads, self._to), (self._from, writes) = _pipe(), _pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        flags.append("--remote-debugging-pipe")
        actions = [(os.POSIX_SPAWN_DUP2, reads, 3), (os.POSIX_SPAWN_DUP2, writes, 4)]
        actions += [(os.POSIX_SPAWN_OPEN, end, os.devnull, os.O_WRONLY, 0) for end in (1, 2)]
        arguments = [program, *flags, f"--user-data-dir={profile}", "about:blank"]
        self._process = os.posix_spawn(program, arguments, os.environ, file_actions=actions, setpgroup=0)
        os.close(reads)
        os.close(writes)
        self._read, self._events, self._number, self._session = b"", [], 0, None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._call(f"{domain}.enable")

    def close(self):
        """End the browser and all its processes."""
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)

    def show(self, path, width=1280, height=900, scheme="light"):
        """Show a file."""
        self._events.clear()
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._message())
        measured = self._call("Runtime.evaluate", expression=MEASURE, returnByValue=True)["result"]["value"]
        picture = base64.b64decode(self._call("Page.captureScreenshot")["data"])
        return Shown(*measured, np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")), *self._heard(path))

    def _heard(self, path):
        said = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        console = [json.dumps(event["params"]) for event in self._events if event["method"] in said]
        asked = [event for event in self._events if event["method"] == "Network.requestWillBeSent"]
        addresses = [event["params"]["request"]["url"] for event in asked]
        own = (path.resolve().as_uri(), "data:")
        return console, [address for address in addresses if not address.startswith(own)]

    def _call(self, method, **parameters):
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _message(self):
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            more = os.read(self._from, 1 << 20)
            assert more, "Chromium has ended"
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)
