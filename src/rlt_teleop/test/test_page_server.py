"""The operator page's server over real HTTP and WebSockets: who is let in, what goes out, what becomes of a press."""

import asyncio
import json
import socket
import time

import aiohttp
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage
from yarl import URL

from rlt_common.codecs import encode_image
from rlt_msgs.msg import Observation
from rlt_teleop import page_server
from rlt_teleop.page_auth import COOKIE, Access
from rlt_teleop.page_cameras import HEAD, Cameras
from rlt_teleop.page_history import History
from rlt_teleop.page_presses import Answer, Press
from rlt_teleop.page_server import PageServer

TOKEN = "a token that is long enough"
SEEN = {"episode_id": 1, "epoch": 2, "phase": 3, "relabelling": 0, "stops": 0}
PICTURE = {"phase": "IDLE", "reason": "</script>"}


class Desk:
    """Takes presses, and answers them at once."""

    def __init__(self) -> None:
        self.presses: list[Press] = []
        self.stops: list[str] = []

    def stop(self, who):
        self.stops.append(who)

    def press(self, press, answer):
        self.presses.append(press)
        answer(Answer(press.name != "undo", f"answer to {press.name}"))


@pytest.fixture
def make_server(tmp_path):
    servers = []

    def make(token="", picture=PICTURE, **more):
        desk, cameras = Desk(), Cameras(["base", "<wrist>"])
        server = PageServer(desk, Access(token), cameras, History(tmp_path, 50.0), tmp_path, camera_hz=50.0, **more)
        servers.append(server)
        if picture:
            server.show(picture)
        return server, desk, cameras

    yield make
    for server in servers:
        server.close()


def run(scene, server, **headers):
    """Run `scene(session)` with a client whose Origin is the page."""

    async def main():
        own = {"Origin": server.url.rstrip("/"), **headers}
        jar = aiohttp.CookieJar(unsafe=True)  # cookies of an IP address too
        async with aiohttp.ClientSession(server.url, headers=own, cookie_jar=jar) as session:
            return await asyncio.wait_for(scene(session), 120)

    return asyncio.run(main())


async def until(page, found):
    """The first message for which `found` holds."""
    while True:
        message = await page.receive()
        assert message.type == aiohttp.WSMsgType.TEXT, message
        if found(data := json.loads(message.data)):
            return data


async def status(session, method, path, **more):
    async with session.request(method, path, allow_redirects=False, **more) as answer:
        return answer.status


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(make_server):
    server, _, _ = make_server()

    async def scene(session):
        async with session.get("/") as answer:
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
            assert "unsafe" not in answer.headers["Content-Security-Policy"]
            texts = [await answer.text()]
        for name in sorted(server._static):
            async with session.get(f"/static/{name}") as answer:
                assert answer.status == (404 if name.endswith(".html") else 200)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                texts.append(await answer.text())
        return texts

    for text in run(scene, server):
        for line in text.replace("http://www.w3.org/2000/svg", "").splitlines():
            assert "http:" not in line
            assert "https:" not in line
            assert "innerHTML" not in line
            assert "eval(" not in line
            assert " style=" not in line
            assert " onclick=" not in line


@pytest.mark.parametrize(
    "path",
    [
        "/static/../page_server.py",
        "/static/..%2fpage_server.py",
        "/static/%2e%2e/page_auth.py",
        "/clips/../labels.jsonl",
        "/clips/1.mp4",
        "/clips/..%2f..%2fetc%2fpasswd.mp4",
        "/clips/-1.mp4",
        "/episodes/1",
        "/etc/passwd",
    ],
)
def test_nothing_else_is_served(make_server, path):
    server, _, _ = make_server()

    async def scene(_):
        async with aiohttp.ClientSession() as plain:
            return await status(plain, "GET", URL(server.url.rstrip("/") + path, encoded=True))

    assert run(scene, server) == 404


def test_a_name_that_somebody_else_points_here_is_turned_away(make_server):
    server, _, _ = make_server()

    async def scene(session):
        assert await status(session, "GET", "/", headers={"Host": "evil.example"}) == 421
        assert await status(session, "GET", "/", headers={"Host": "localhost:1"}) == 200

    run(scene, server)
    assert server.turned_away == 1


def test_other_sites_neither_press_nor_listen(make_server):
    server, desk, _ = make_server()

    async def scene(session):
        for origin in ("http://evil.example", "null"):
            assert await status(session, "POST", "/estop", headers={"Origin": origin}) == 403
            assert await status(session, "POST", "/clips/1", headers={"Origin": origin}) == 403
            for path in ("/state", "/cameras"):
                with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                    await session.ws_connect(path, headers={"Origin": origin})

    run(scene, server)
    assert not desk.stops


def test_with_a_token_nothing_comes_without_it(make_server):
    server, desk, _ = make_server(TOKEN)

    async def scene(session):
        async with session.get("/") as answer:
            text = await answer.text()
            assert 'type="password"' in text
            assert 'id="estop"' not in text
        for method, path in (("GET", "/episodes"), ("GET", "/clips/1.mp4"), ("POST", "/clips/1"), ("POST", "/estop")):
            assert await status(session, method, path) == 401
        for path in ("/state", "/cameras"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await session.ws_connect(path)
        assert await status(session, "GET", "/", cookies={f"{COOKIE}_{server._port}": "99999999999.00"}) == 200

    run(scene, server)
    assert not desk.stops


def test_who_types_it_gets_a_cookie_that_no_script_and_no_other_site_has(make_server, monkeypatch):
    monkeypatch.setattr(page_server, "WRONG_TOKEN_S", 0.01)
    server, _, _ = make_server(TOKEN)

    async def scene(session):
        async with session.post("/login", data={"token": "wrong"}) as answer:
            assert answer.status == 403
            assert "not the token" in await answer.text()
            assert "Set-Cookie" not in answer.headers
        async with session.post("/login", data={"token": TOKEN}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert TOKEN not in cookie
        async with session.get("/") as answer:
            assert 'id="estop"' in await answer.text()
        async with session.ws_connect("/state") as page:
            assert await until(page, lambda data: "state" in data)

    run(scene, server)


def test_wrong_tokens_keep_nobody_out_who_has_the_right_one(make_server, monkeypatch):
    monkeypatch.setattr(page_server, "WRONG_TOKEN_S", 3600.0)
    monkeypatch.setattr(page_server, "WRONG_TOKENS", 2)
    server, _, _ = make_server(TOKEN)

    async def scene(session):
        wrong = [asyncio.ensure_future(status(session, "POST", "/login", data={"token": "wrong"})) for _ in range(3)]
        done, waiting = await asyncio.wait(wrong, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert ([task.result() for task in done], len(waiting)) == ([429], 2), "more than have room are turned away"
        right = status(session, "POST", "/login", data={"token": TOKEN})
        assert await asyncio.wait_for(right, 60) == 303
        for task in waiting:
            task.cancel()

    run(scene, server)
    assert server.turned_away == 3


def test_a_page_gets_the_newest_picture_and_its_name(make_server):
    server, _, _ = make_server()

    async def scene(session):
        async with session.ws_connect("/state") as page:
            first = await until(page, lambda data: "state" in data)
            assert (first["you"], first["pages"], first["state"]) == ("operator 1", 1, PICTURE)
            await page.send_json({"name": "Ana"})
            await until(page, lambda data: data.get("you") == "Ana")
            for number in range(100):
                server.show({"number": number})
            await until(page, lambda data: data["state"].get("number") == 99)

    run(scene, server)


def test_a_page_that_is_there_before_the_first_picture_waits_for_it(make_server):
    server, _, _ = make_server(picture=None)

    async def scene(session):
        async with session.ws_connect("/state") as page:
            await page.send_json({"name": "Ana"})
            for number in (1, 2):  # the second one's answer comes after all that the name has led to
                await page.send_json({"press": "success", "seen": SEEN, "number": number})
                assert (await page.receive_json())["answer"] == number
            server.show(PICTURE)
            first = await page.receive_json()
            assert (first["you"], first["state"]) == ("Ana", PICTURE)

    run(scene, server)


def test_a_press_is_answered_to_who_pressed(make_server):
    server, desk, _ = make_server()

    async def scene(session):
        async with session.ws_connect("/state") as ana, session.ws_connect("/state") as other:
            await ana.send_json({"name": "Ana"})
            await ana.send_json({"press": "success", "seen": SEEN, "number": 7})
            answer = await until(ana, lambda data: "answer" in data)
            assert answer == {"answer": 7, "done": True, "text": "answer to success"}
            await ana.send_json({"press": "undo", "seen": SEEN, "number": 8})
            assert not (await until(ana, lambda data: "answer" in data))["done"]
            await other.send_json({"press": "estop", "number": 1})
            await until(other, lambda data: "answer" in data)

    run(scene, server)
    assert [(press.name, press.who) for press in desk.presses] == [
        ("success", "Ana"),
        ("undo", "Ana"),
        ("estop", "operator 2"),
    ]
    assert desk.stops == ["operator 2"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "1",
        '{"press":"success","number":1}',
        '{"press":"fly","number":1,"seen":{}}',
        '{"press":[],"number":1}',
        '{"press":{},"number":1}',
        "{" * 3000,
    ],
)
def test_nonsense_is_answered_and_presses_nothing(make_server, text):
    server, desk, _ = make_server()

    async def scene(session):
        async with session.ws_connect("/state") as page:
            await page.send_str(text)
            assert not (await until(page, lambda data: "answer" in data))["done"]

    run(scene, server)
    assert not desk.presses


def test_a_message_that_is_too_long_ends_the_connection(make_server):
    server, _, _ = make_server()

    async def scene(session):
        async with session.ws_connect("/state") as page:
            await page.send_str("x" * 100_000)
            while (message := await page.receive()).type == aiohttp.WSMsgType.TEXT:
                pass
            return message.type

    assert run(scene, server) in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


def test_the_emergency_stop_has_a_way_of_its_own(make_server):
    server, desk, _ = make_server()

    async def scene(session):
        async with session.post("/estop?who=Ana") as answer:
            return await answer.json()

    assert run(scene, server) == {"done": True, "text": "answer to estop"}
    assert desk.stops == ["Ana"]


def observation(value):
    images = [
        CompressedImage(format=kind, data=encode_image(np.full((8, 8, 3), value, np.uint8), "png"))
        for kind in ("png", "png", "text/html")
    ]
    return serialize_message(Observation(camera_names=["<wrist>", "unknown", "base"], images=images))


def test_images_come_when_they_are_asked_for_and_only_those_of_known_cameras_and_formats(make_server):
    server, _, cameras = make_server()

    async def scene(session):
        async with session.ws_connect("/cameras") as page:
            assert (await page.receive_json()) == {"cameras": ["base", "<wrist>"]}
            await page.send_str("next")
            assert await page.receive_bytes() == b"", "nothing new"
            cameras.show(observation(77))
            await page.send_str("next")
            body = await page.receive_bytes()
            camera, kind, length = HEAD.unpack_from(body)
            assert (camera, kind, length) == (1, 0, len(body) - HEAD.size)
            cameras.show(b"damaged")
            await page.send_str("next")
            assert await page.receive_bytes() == b""

    run(scene, server)
    assert cameras.unreadable == 1


def test_a_page_that_takes_nothing_is_dropped_and_holds_nobody_up(make_server, monkeypatch):
    monkeypatch.setattr(page_server, "SEND_S", 2.0)
    server, _, _ = make_server()

    async def scene(session):
        async with session.ws_connect("/state") as well:
            taker = socket.socket()
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            taker.connect(("127.0.0.1", server._port))
            stuck = await asyncio.open_connection(sock=taker, limit=1024)
            lines = ["GET /state HTTP/1.1", "Host: localhost", "Origin: http://localhost", "Upgrade: websocket"]
            lines += [
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: " + "A" * 22 + "==",
                "",
                "",
            ]
            stuck[1].write("\r\n".join(lines).encode())
            await stuck[1].drain()
            end, number = time.monotonic() + 100, 0
            while not server.dropped and time.monotonic() < end:
                number += 1
                server.show({"number": number, "much": "x" * 500_000})
                await until(well, lambda data, wanted=number: data["state"].get("number") == wanted)
            stuck[1].close()

    run(scene, server)
    assert server.dropped == 1


def test_no_more_pages_than_there_is_room_for(make_server, monkeypatch):
    monkeypatch.setattr(page_server, "CLIENTS", 1)
    server, _, _ = make_server()

    async def scene(session):
        async with session.ws_connect("/state"), session.ws_connect("/cameras"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await session.ws_connect("/state")

    run(scene, server)


@pytest.mark.parametrize("path", ["/state", "/cameras"])
def test_a_page_that_ends_in_an_error_gives_its_room_back(make_server, monkeypatch, path):
    monkeypatch.setattr(page_server, "CLIENTS", 1)
    monkeypatch.setattr(page_server, "CAMERA_BEAT_S", 0.01)
    server, desk, cameras = make_server()

    def broken(*_):
        raise KeyError("unforeseen")

    monkeypatch.setattr(desk, "press", broken)
    monkeypatch.setattr(cameras, "newest", broken)

    async def scene(session):
        for _ in range(3):  # of two places
            async with session.ws_connect(path) as page:
                await page.send_json({"press": "success", "seen": SEEN, "number": 1})
                while (await page.receive()).type == aiohttp.WSMsgType.TEXT:
                    pass
        async with session.ws_connect("/state"), session.ws_connect("/cameras"):
            pass

    run(scene, server)


def test_a_port_that_is_taken_is_an_error(make_server):
    server, _, _ = make_server()
    with pytest.raises(OSError, match="address already in use"):
        make_server(port=server._port)
