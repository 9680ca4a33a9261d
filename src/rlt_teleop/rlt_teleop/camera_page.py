"""A web page that shows the newest camera images to a person. No ROS: images come in as PNG or JPEG bytes."""

from __future__ import annotations

import json
import threading
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAIT_S = 1.0
"""How long a browser waits for the next image before it asks again."""
TYPES = {"png": "image/png", "jpeg": "image/jpeg"}

_PAGE = """<!doctype html><meta charset="utf-8"><title>cameras</title>
<style>body{background:#222;color:#ddd;font:14px sans-serif;display:flex;flex-wrap:wrap;gap:8px}
img{height:46vh;image-rendering:pixelated;display:block}</style>
<body><script>
for (const name of NAMES) {
  const figure = document.body.appendChild(document.createElement("figure"));
  const image = figure.appendChild(document.createElement("img"));
  figure.appendChild(document.createElement("figcaption")).textContent = name;
  (async () => {
    for (let seen = 0;;) {
      try {
        const answer = await fetch("/camera/" + encodeURIComponent(name) + "?after=" + seen);
        if (answer.status == 200) {
          seen = answer.headers.get("X-Frame");
          const url = URL.createObjectURL(await answer.blob());
          image.onload = () => URL.revokeObjectURL(url);
          image.src = url;
        }
      } catch { await new Promise(again => setTimeout(again, 1000)); }
    }
  })();
}
</script>"""


class Frames:
    """The newest image of each camera; safe to use from several threads.

    Args:
        names: the cameras.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._news = threading.Condition()
        self._number = 0
        self._images: dict[str, tuple[str, bytes]] = {}

    def show(self, images: dict[str, tuple[str, bytes]]) -> None:
        """New images, each as ("png" or "jpeg", bytes); unknown cameras and formats are left out."""
        known = {n: image for n, image in images.items() if n in self.names and image[0] in TYPES}
        with self._news:
            self._images, self._number = known, self._number + 1
            self._news.notify_all()

    def newer(self, name: str, after: int) -> tuple[int, str, bytes] | None:
        """(number, format, bytes) of a camera's image with a number above `after`; None when none comes in time."""
        with self._news:
            self._news.wait_for(lambda: self._number > after, WAIT_S)
            if self._number <= after or name not in self._images:
                return None
            return self._number, *self._images[name]


class PageServer:
    """Serves the page on this machine only. Use `close` at the end.

    Args:
        frames: what to show.
        port: TCP port on 127.0.0.1; 0: any that is free.

    Raises OSError when the port is taken.
    """

    def __init__(self, frames: Frames, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(frames))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(frames: Frames) -> type[BaseHTTPRequestHandler]:
    page = _PAGE.replace("NAMES", json.dumps(frames.names).replace("<", "\\u003c")).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            name = urllib.parse.unquote(url.path.removeprefix("/camera/"))
            if url.path == "/":
                self._answer("text/html; charset=utf-8", page)
            elif url.path.startswith("/camera/") and name in frames.names:
                after = urllib.parse.parse_qs(url.query).get("after", ["0"])[0]
                image = frames.newer(name, int(after) if after.isdecimal() and len(after) < 20 else 0)
                if image is None:
                    self.send_response(HTTPStatus.NO_CONTENT)
                    self.end_headers()
                else:
                    self._answer(TYPES[image[1]], image[2], image[0])
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, kind: str, body: bytes, number: int = 0) -> None:
            self.send_response(HTTPStatus.OK)
            for key, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Frame", str(number)),
            ):
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not every request into the log."""

    return Handler
