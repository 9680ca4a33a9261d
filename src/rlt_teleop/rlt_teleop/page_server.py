"""The operator page's web server: aiohttp in a thread of its own, which touches no ROS object.

    GET  /                    the page, or the form that asks for the token
    GET  /static/<file>       its scripts and styles
    POST /login               token -> cookie
    GET  /state               WebSocket: pictures out (page_state.py), presses in, an answer to each
    GET  /cameras             WebSocket: the newest images each time the page asks, at most `camera_hz` times a second
    GET  /episodes            the run's episodes and learning curve
    POST /clips/<episode>     have the clip made;  GET /clips/<episode>.mp4 is the clip
    POST /estop               the emergency stop, should the WebSocket not do

Pages are pushed the newest picture only: a slow one skips some, one that takes nothing for SEND_S is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from aiohttp import WSCloseCode, WSMsgType, web

from rlt_common.reading import parse_json, read_limited
from rlt_teleop.clips import Clips, NoClip
from rlt_teleop.page_auth import COOKIE, SESSION_S, Access
from rlt_teleop.page_cameras import Cameras
from rlt_teleop.page_history import History
from rlt_teleop.page_presses import ESTOP, Answer, Press, PressError, name_of
from rlt_teleop.page_state import to_json

STATIC = Path(__file__).parent / "static"
STATIC_BYTES = 1024**2
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SEND_S = 5.0
LEAVE_S = 1.0
"""For a page to take leave when the server ends."""
CLIENTS = 16
"""Pages at once; more are refused."""
ANSWERS = 32
MESSAGE_BYTES = 4096
WRONG_TOKEN_S = 1.0
"""From the answer to one wrong token to the answer to the next."""
WRONG_TOKENS = 8
"""That wait for this; more are turned away at once."""
WRONG_TOKEN = b'<p class="note bad" role="alert">That is not the token.</p>'
MANY_WRONG = b'<p class="note bad" role="alert">That is not the token, and others are wrong too: wait a moment.</p>'
REFUSAL_PLACE = b"<!-- refusal -->"
"""Where login.html has room for it."""
CAMERA_BEAT_S = 1.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_OPEN = ("/login", "/static/")
"""Paths that need no token."""


class Desk(Protocol):
    """Where presses go; called from the server's thread."""

    def stop(self, who: str) -> None:
        """The emergency stop, at once."""

    def press(self, press: Press, answer: Callable[[Answer], None]) -> None:
        """Any other press, and the rest of an emergency stop. `answer` is called once, from any thread."""


class _Client:
    """A page that is open."""

    def __init__(self, number: int, socket: web.WebSocketResponse) -> None:
        self.number, self.socket = number, socket
        self.name = name_of("", number)
        self.news = asyncio.Event()
        self.shown = 0
        self.answers: deque[str] = deque(maxlen=ANSWERS)


class PageServer:
    """Serves the page from a thread. Use `close` at the end.

    Args:
        desk: takes presses.
        access: who may.
        cameras, history: what there is to see.
        run: the run directory, for clips.
        address, port: where to listen; port 0: any that is free.
        camera_hz: images per second and camera, at most.
        clips_mib: what clips may take up.

    Raises OSError when it cannot listen there.
    """

    def __init__(
        self,
        desk: Desk,
        access: Access,
        cameras: Cameras,
        history: History,
        run: Path | str,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        camera_hz: float = 10.0,
        clips_mib: float = 512.0,
    ) -> None:
        self._desk, self._access, self._cameras, self._history = desk, access, cameras, history
        self._run, self._clips_mib, self._camera_s = run, clips_mib, 1.0 / camera_hz
        self._address, self._port = address, port
        files = (path for path in sorted(STATIC.iterdir()) if path.suffix in TYPES)
        self._static = {path.name: read_limited(path, STATIC_BYTES) for path in files}
        self._picture, self._number = "", 0
        self._clients: dict[int, _Client] = {}
        self._sockets: set[web.WebSocketResponse] = set()
        self._count = self._waiting = 0
        self.dropped = self.turned_away = 0
        self._files = ThreadPoolExecutor(1, "operator_page_files")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="operator_page", daemon=True)
        self._thread.start()
        try:
            self._in_loop(self._start())
        except BaseException:
            self._end()
            raise

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{self._port}/"

    @property
    def _cookie(self) -> str:
        """Browsers share cookies between the ports of a machine, which may have a page per robot."""
        return f"{COOKIE}_{self._port}"

    @property
    def clients(self) -> int:
        """Pages that are open."""
        return len(self._clients)

    def show(self, picture: dict[str, Any]) -> None:
        """A new picture for every page; from any thread."""
        text = to_json(picture)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._show, text)

    def close(self) -> None:
        """Stop serving."""
        self._in_loop(self._stop())
        self._end()

    # ---- the thread

    def _in_loop(self, work: Awaitable[None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._files.shutdown(wait=False, cancel_futures=True)

    async def _start(self) -> None:
        self._clips = Clips(self._run, self._clips_mib)
        self._wrong, self._observed = asyncio.Lock(), asyncio.Event()
        app = web.Application(middlewares=[self._guard], client_max_size=MESSAGE_BYTES)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/static/{name}", self._file),
                web.post("/login", self._on_login),
                web.get("/state", self._state),
                web.get("/cameras", self._images),
                web.get("/episodes", self._episodes),
                web.post(r"/clips/{episode:\d{1,12}}", self._make_clip),
                web.get(r"/clips/{episode:\d{1,12}}.mp4", self._clip),
                web.post("/estop", self._on_estop),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=LEAVE_S)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._address, self._port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        self._cameras.tell(self._tell_cameras)

    async def _stop(self) -> None:
        self._cameras.tell(lambda: None)
        leaving = (asyncio.wait_for(s.close(code=WSCloseCode.GOING_AWAY), LEAVE_S) for s in self._sockets)
        await asyncio.gather(*leaving, return_exceptions=True)
        await self._clips.close()
        await self._runner.cleanup()

    def _tell_cameras(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        """Let those go on who wait for an observation now."""
        self._observed.set()
        self._observed.clear()

    def _show(self, text: str) -> None:
        self._picture, self._number = text, self._number + 1
        for client in self._clients.values():
            client.news.set()

    # ---- who may

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[..., Awaitable[web.StreamResponse]]) -> Any:
        try:
            response = self._turned_away(request)
            if response is None:  # not `or`: to aiohttp 3.9, which Ubuntu 24.04 has, a response is an empty mapping
                response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text)
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _turned_away(self, request: web.Request) -> web.Response | None:
        host, acts = request.headers.get("Host"), request.method != "GET" or "Upgrade" in request.headers
        if not self._access.host(host):
            text = "This is not a name of this machine: use its address, or name it in host_names of operator_page."
            return self._refuse(HTTPStatus.MISDIRECTED_REQUEST, text)
        if acts and not self._access.origin(request.headers.get("Origin"), host):
            return self._refuse(HTTPStatus.FORBIDDEN, "Only the page itself may do this.")
        if request.path.startswith(_OPEN) or self._access.valid(request.cookies.get(self._cookie), time.time()):
            return None
        if request.path == "/" and request.method == "GET":
            return self._html("login.html")
        return self._refuse(HTTPStatus.UNAUTHORIZED, "Sign in first.")

    def _refuse(self, status: HTTPStatus, text: str) -> web.Response:
        self.turned_away += 1
        return web.Response(status=status, text=text)

    async def _on_login(self, request: web.Request) -> web.Response:
        form = await request.post()
        token = form.get("token")
        if not isinstance(token, str) or not self._access.right(token):
            return await self._wrong_token()
        response = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/"})
        session = self._access.session(time.time())
        response.set_cookie(self._cookie, session, max_age=SESSION_S, httponly=True, samesite="Strict", path="/")
        return response

    async def _wrong_token(self) -> web.Response:
        """One answer a second. Who has the right token never waits for those who do not."""
        self.turned_away += 1
        if self._waiting >= WRONG_TOKENS:
            return self._html("login.html", HTTPStatus.TOO_MANY_REQUESTS, MANY_WRONG)
        self._waiting += 1
        try:
            async with self._wrong:
                await asyncio.sleep(WRONG_TOKEN_S)
        finally:
            self._waiting -= 1
        return self._html("login.html", HTTPStatus.FORBIDDEN, WRONG_TOKEN)

    # ---- what there is to see

    async def _page(self, _: web.Request) -> web.Response:
        return self._html("index.html")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._static or name.endswith(".html"):
            raise web.HTTPNotFound
        return web.Response(body=self._static[name], content_type=TYPES[Path(name).suffix], charset="utf-8")

    def _html(self, name: str, status: HTTPStatus = HTTPStatus.OK, refusal: bytes = b"") -> web.Response:
        body = self._static[name].replace(REFUSAL_PLACE, refusal)
        return web.Response(body=body, content_type="text/html", charset="utf-8", status=status)

    async def _episodes(self, _: web.Request) -> web.Response:
        value = await self._loop.run_in_executor(self._files, self._history.to_json)
        return web.Response(text=to_json(value), content_type="application/json")

    async def _make_clip(self, request: web.Request) -> web.Response:
        episode_id = int(request.match_info["episode"])
        try:
            await self._clips.get(episode_id)
        except NoClip as error:
            return web.json_response({"problem": str(error)}, status=HTTPStatus.CONFLICT)
        return web.json_response({"url": f"/clips/{episode_id}.mp4"})

    async def _clip(self, request: web.Request) -> web.StreamResponse:
        with contextlib.suppress(NoClip):
            if path := self._clips.find(int(request.match_info["episode"])):
                return web.FileResponse(path, headers=HEADERS)
        raise web.HTTPNotFound(text="There is no such clip.")

    async def _images(self, request: web.Request) -> web.StreamResponse:
        sent, at_s = 0, 0.0
        async with self._socket(request) as socket:
            with contextlib.suppress(asyncio.TimeoutError, ConnectionError, RuntimeError):
                await asyncio.wait_for(socket.send_str(to_json({"cameras": self._cameras.names})), SEND_S)
                async for message in socket:
                    if message.type != WSMsgType.TEXT:
                        break
                    await asyncio.sleep(max(0.0, at_s + self._camera_s - time.monotonic()))
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._observed_after(sent), CAMERA_BEAT_S)
                    number, packed = self._cameras.newest()
                    await asyncio.wait_for(socket.send_bytes(packed if number != sent else b""), SEND_S)
                    sent, at_s = number, time.monotonic()
        return socket

    async def _observed_after(self, number: int) -> None:
        while self._cameras.number <= number:
            await self._observed.wait()

    # ---- the state, and presses

    async def _state(self, request: web.Request) -> web.StreamResponse:
        async with self._socket(request) as socket:
            self._count += 1
            client = _Client(self._count, socket)
            self._clients[client.number] = client
            writer = asyncio.ensure_future(self._write(client))
            try:
                async for message in socket:
                    if message.type != WSMsgType.TEXT:
                        break
                    self._hear(client, message.data)
            finally:
                del self._clients[client.number]
                writer.cancel()
        return socket

    async def _write(self, client: _Client) -> None:
        """Send the newest picture, and answers, as fast as the page takes them."""
        client.news.set()
        try:
            while True:
                await client.news.wait()
                client.news.clear()
                while client.answers:
                    await asyncio.wait_for(client.socket.send_str(client.answers.popleft()), SEND_S)
                if self._picture and client.shown != self._number:
                    client.shown = self._number
                    text = f'{{"you":{json.dumps(client.name)},"pages":{len(self._clients)},"state":{self._picture}}}'
                    await asyncio.wait_for(client.socket.send_str(text), SEND_S)
        except asyncio.TimeoutError:
            self.dropped += 1
            if (transport := client.socket.get_extra_info("transport", None)) is not None:
                transport.abort()
        except (ConnectionError, RuntimeError):
            pass  # it is gone: the reader ends

    def _hear(self, client: _Client, text: str) -> None:
        number = None
        try:
            data = parse_json(text)
            if not isinstance(data, dict):
                raise PressError("it is no object")
            if "name" in data:
                client.name = name_of(data["name"], client.number)
                client.shown = -1
                client.news.set()
                return
            if type(number := data.get("number")) is not int:
                raise PressError("number must be a number")
            press = Press.parse(data, client.name)
        except ValueError as error:
            self._answer(client, number, Answer(False, str(error)))
            return
        if press.name == ESTOP:
            self._desk.stop(client.name)
        self._desk.press(press, lambda answer: self._loop.call_soon_threadsafe(self._answer, client, number, answer))

    def _answer(self, client: _Client, number: object, answer: Answer) -> None:
        number = number if type(number) is int else None
        client.answers.append(to_json({"answer": number, "done": answer.done, "text": answer.text}))
        client.news.set()

    async def _on_estop(self, request: web.Request) -> web.Response:
        who = name_of(request.query.get("who", ""), 0)
        self._desk.stop(who)
        answered: asyncio.Future[Answer] = self._loop.create_future()

        def answer(value: Answer) -> None:
            self._loop.call_soon_threadsafe(lambda: answered.done() or answered.set_result(value))

        self._desk.press(Press(ESTOP, who), answer)
        try:
            value = await asyncio.wait_for(answered, SEND_S)
        except asyncio.TimeoutError:
            value = Answer(False, "sent on the topic; nobody has confirmed it")
        return web.json_response({"done": value.done, "text": value.text})

    # ---- WebSockets

    @contextlib.asynccontextmanager
    async def _socket(self, request: web.Request) -> AsyncIterator[web.WebSocketResponse]:
        """A WebSocket that has its place among those that are open, and gives it back whatever ends it."""
        if len(self._sockets) >= 2 * CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{CLIENTS} pages are open already: close one.")
        socket = web.WebSocketResponse(heartbeat=5.0, max_msg_size=MESSAGE_BYTES, compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            yield socket
        finally:
            self._sockets.discard(socket)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(socket.close(), LEAVE_S)
