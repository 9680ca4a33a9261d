"""The operator page in a real headless Chromium, on the real graph: simulator, executor, cameras, manager, recorder.

Skips where there is no Chromium. One graph and one browser for all of it; every test leaves the arms at rest.
"""

import json
import os
import signal
import time
from contextlib import contextmanager, suppress

import pytest
from axe_playwright_python.sync_playwright import Axe
from harness.operated_page import CHROMIUM, browser, enabled, operated
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from rlt_common.relabels import corrected_labels
from rlt_teleop.page_auth import Access
from rlt_teleop.page_cameras import Cameras
from rlt_teleop.page_history import History
from rlt_teleop.page_server import PageServer
from rlt_teleop.page_state import page_state, seen_of
from rlt_teleop.status_model import Snapshot

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH: apt-get install chromium"),
    pytest.mark.timeout(600),
]
WAIT_MS, LOOK_MS = 120_000, 5_000
TOKEN = "a token that is long enough"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    with operated(tmp_path_factory.mktemp("page") / "run") as running:
        yield running


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


class Person:
    """Somebody in front of a page of their own."""

    def __init__(self, page, name=""):
        self.page, self.problems = page, []
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        if name:
            page.fill("#name", name)
            page.press("#name", "Tab")

    def until(self, script, argument=None):
        """Wait for a condition. Not by wait_for_function, which the page's Content-Security-Policy refuses."""
        end_s = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(script, argument):
            assert time.monotonic() < end_s, f"{script} {argument}:\n{self.page.inner_text('body')}"
            self.page.wait_for_timeout(50)

    def phase(self, *names):
        self.until("names => names.includes(document.body.dataset.phase)", list(names))

    def may(self, name):
        self.until('name => document.querySelector(`[data-name="${name}"]`).ariaDisabled === "false"', name)

    def press(self, name):
        self.may(name)
        self.page.click(f'[data-name="{name}"]')

    def hears(self, text):
        self.until("text => document.querySelector('#said').textContent.includes(text)", text)

    def running(self):
        self.press("next_episode")
        self.phase("BASE")

    def critical(self):
        self.running()
        self.press("handoff")
        self.phase("CRITICAL")

    def ends(self, label):
        """Label the running episode; returns its id once its row is there."""
        number = self.episode()
        self.press(label)
        self.phase("IDLE")
        self.until(
            "([id, label]) => document.querySelector('#episodes li')?.innerText.includes(`#${id}\\n`) && "
            "document.querySelector('#episodes li .badge').innerText.includes(label)",
            [number, label],
        )
        return number

    def episode(self):
        return int(self.page.inner_text("#facts").split()[1])

    def counted(self):
        return int(self.page.inner_text("#tiles .tile b"))

    def released(self):
        """Release the emergency stop; looks again where one closes the panel: a press may come by two ways."""
        end_s = time.monotonic() + WAIT_MS / 1000.0
        while self.page.get_attribute("body", "data-estop") == "true":
            assert time.monotonic() < end_s, self.page.inner_text("body")
            with suppress(PlaywrightTimeout):
                if self.page.is_visible("#reset-open"):
                    self.page.click("#reset-open", timeout=LOOK_MS)
                self.page.check("#reset-looked", timeout=LOOK_MS)
                self.page.click("#reset-do", timeout=LOOK_MS)
                self.page.wait_for_selector("body[data-estop=false]", timeout=LOOK_MS)
        self.phase("IDLE")


@pytest.fixture
def person(rig, chromium):
    """person(name, **context) -> a person whose page is live. Whatever goes on ends with the test."""
    with people(rig, chromium) as make:
        yield make


@contextmanager
def people(rig, chromium):
    contexts = []

    def make(name="", **context):
        contexts.append(chromium.new_context(reduced_motion="reduce", **context))
        page = contexts[-1].new_page()
        page.goto(rig.url)
        found = Person(page, name)
        found.until("document.body.dataset.link === 'live'")
        return found

    yield make
    if contexts:
        last = make()
        if last.page.get_attribute("body", "data-estop") == "true":
            last.released()
        if enabled(last.page, "discard") and last.page.get_attribute("body", "data-moving") == "true":
            last.press("discard")
        last.phase("IDLE")
    for context in contexts:
        context.close()


def test_the_page_loads_without_a_complaint_and_shows_what_the_cameras_see(person):
    ana = person("Ana")
    ana.running()
    ana.until("document.querySelectorAll('#cameras img').length === 3")
    ana.until("[...document.querySelectorAll('#cameras img')].every(i => i.naturalWidth > 0)")
    assert ana.page.inner_text("#cameras").split() == ["base", "left_wrist", "right_wrist"]
    ana.until("document.querySelector('#health').innerText.includes('chunk_executor')")
    assert "Nobody else" in ana.page.text_content("#pages")
    ana.ends("discard")
    assert not ana.problems


def test_buttons_act_on_the_real_graph_and_the_episode_counts(person):
    ana = person("Ana")
    before = ana.counted()
    assert not enabled(ana.page, "success"), "nothing runs that could be one"
    ana.critical()
    assert not enabled(ana.page, "next_episode")
    number = ana.ends("success")
    ana.until("count => document.querySelector('#tiles .tile b').textContent == count", before + 1)
    ana.until("document.querySelector('#log').innerText.includes('Ana: success')")
    assert f"episode {number}" in ana.page.inner_text("#facts")
    assert "success, written" in ana.page.inner_text("#facts")


def test_an_episode_is_led_by_keys_alone(person):
    ana = person("Ana")
    ana.may("next_episode")
    ana.page.keyboard.press("Enter")
    ana.phase("BASE")
    ana.page.focus('[data-name="handoff"]')
    ana.may("handoff")
    ana.page.keyboard.press("Space")
    ana.phase("CRITICAL")
    ana.may("discard")
    ana.page.keyboard.press("x")
    ana.phase("IDLE", "LABELLED")
    ana.page.fill("#name", "")
    ana.page.focus("#name")
    ana.page.keyboard.type("hxy")
    assert ana.page.input_value("#name") == "hxy", "what is typed presses nothing"
    ana.page.uncheck("#keys")
    ana.page.focus("#decisions")
    ana.may("next_episode")
    ana.page.keyboard.press("Enter")
    ana.phase("IDLE")
    ana.page.keyboard.press("Escape")
    ana.phase("ESTOP")


def test_undo_and_the_list_of_episodes_give_another_label(person, rig):
    ana = person("Ana")
    ana.critical()
    number = ana.ends("success")
    ana.press("undo")
    ana.until(f"document.querySelector('[data-name=failure]').innerText.includes('episode {number} was a failure')")
    ana.press("failure")
    ana.hears(f"episode {number} is a failure now")
    ana.until("document.querySelector('#episodes li .badge').innerText.includes('failure (was success)')")
    assert corrected_labels(rig.run)[number] == "failure"
    ana.page.click(f'[aria-label="Another label for episode {number}"]')
    ana.page.click(f'[aria-label="Episode {number} was a discard"]')
    ana.until("document.querySelector('#episodes li .badge').innerText.includes('discard (was success)')")
    assert corrected_labels(rig.run)[number] == "discard"


def test_the_emergency_stop_latches_in_the_executor_and_is_released_on_purpose_only(person, rig):
    ana = person("Ana")
    ana.critical()
    ana.page.click("#estop")
    ana.hears("stopped: ")
    ana.phase("ESTOP")
    assert "EMERGENCY STOP: " in (rig.run / "log" / "chunk_executor.log").read_text()
    assert all(not enabled(ana.page, name) for name in ("next_episode", "success", "undo"))
    ana.until("document.querySelector('#reset-open').ariaDisabled === 'false'")
    ana.page.click("#reset-open")
    ana.page.evaluate("document.querySelector('#reset-do').click()")
    ana.hears("first say that you have looked at the arms")
    other = person("Ben")
    said = "another emergency stop came in: look at the arms again"
    while said not in ana.page.text_content("#said"):
        if ana.page.is_visible("#reset-open"):  # her own stop, by its second way, closed the panel already
            ana.page.click("#reset-open")
        other.page.keyboard.press("Escape")
        ana.page.wait_for_timeout(500)
    ana.until("document.querySelector('#reset-panel').hidden")
    ana.released()
    other.phase("IDLE")


def test_two_operators_see_the_same_and_a_press_that_comes_too_late_is_refused(person):
    ana, ben = person("Ana"), person("Ben")
    ana.critical()
    ben.phase("CRITICAL")
    number = ben.episode()
    # Ben's page as it was: it sends what it saw then.
    ben.page.evaluate(
        """async () => {
          const socket = new WebSocket(location.origin.replace("http", "ws") + "/state");
          window.late = { socket, answers: [] };
          await new Promise((seen) => { socket.onmessage = (event) => {
            const data = JSON.parse(event.data);
            if (data.state && !window.late.seen) { window.late.seen = data.state.seen; seen(); }
            if (data.answer) window.late.answers.push(data);
          }; });
        }"""
    )
    ana.ends("success")
    ana.critical()
    ben.page.evaluate('late.socket.send(JSON.stringify({ press: "failure", seen: late.seen, number: 1 }))')
    ben.until("late.answers.length === 1")
    answer = ben.page.evaluate("late.answers[0]")
    assert not answer["done"]
    assert (
        f"failure was meant for episode {number} in CRITICAL; now it is episode {number + 1} in CRITICAL"
        in answer["text"]
    )
    ben.until("document.querySelector('#log').innerText.includes('Ana: success')")
    ana.until("document.querySelector('#log').innerText.includes('failure refused')")
    assert ana.episode() == ben.episode() == number + 1
    assert ana.page.get_attribute("body", "data-phase") == "CRITICAL"
    assert "2 pages" in ana.page.text_content("#pages") or "3 pages" in ana.page.text_content("#pages")


def test_the_page_says_that_the_node_is_gone_and_comes_back_with_it(person, rig):
    ana = person("Ana")
    restarts = rig.runner.restarts("operator_page")
    os.kill(rig.runner.pid("operator_page"), signal.SIGKILL)
    ana.until("!document.querySelector('#lost').hidden")
    assert "buttons do nothing" in ana.page.inner_text("#lost")
    ana.page.evaluate("document.querySelector('[data-name=next_episode]').click()")
    ana.hears("the connection is lost: this button did nothing")
    ana.page.keyboard.press("Escape")
    ana.hears("NOBODY HAS CONFIRMED THE EMERGENCY STOP")
    ana.until("document.body.dataset.link === 'live'")
    assert rig.runner.restarts("operator_page") == restarts + 1
    assert ana.page.is_hidden("#lost")
    ana.running()
    ana.until("[...document.querySelectorAll('#cameras figure')].every(f => !f.classList.contains('old'))")
    ana.ends("discard")


def test_the_clip_of_an_episode_plays(person):
    ana = person("Ana")
    ana.critical()
    ana.until("+document.querySelector('#facts').textContent.split('step ')[1] > 20")
    number = ana.ends("success")
    ana.page.click(f'[aria-label="Clip of episode {number}"]')
    ana.until("document.querySelector('#episodes video')?.readyState >= 2")
    width, seconds = ana.page.evaluate("(v => [v.videoWidth, v.duration])(document.querySelector('#episodes video'))")
    assert width >= 3 * 192
    assert seconds > 0.2
    ana.page.evaluate("document.querySelector('#episodes video').play()")
    ana.until("document.querySelector('#episodes video').currentTime > 0")
    assert violations(ana) == []
    ana.page.click(f'[aria-label="Clip of episode {number}"]')
    ana.until("!document.querySelector('#episodes video')")
    assert not ana.problems


def violations(someone):
    """Serious ones that axe-core finds: rule and where."""
    results = Axe().run(someone.page, options={"resultTypes": ["violations"]}).response
    return [
        (found["id"], node["target"], json.dumps(node["any"])[:300])
        for found in results["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("context", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
def test_everybody_can_use_it(person, context):
    ana = person("Ana", **context)
    assert violations(ana) == []
    ana.critical()
    assert violations(ana) == []
    ana.page.keyboard.press("Escape")
    ana.phase("ESTOP")
    ana.until("document.querySelector('#reset-open').ariaDisabled === 'false'")
    ana.page.click("#reset-open")
    assert violations(ana) == []


def test_a_screen_reader_has_a_name_for_everything_and_hears_what_changes(person):
    ana = person("Ana")
    tree = ana.page.locator("body").aria_snapshot()
    for line in (
        "banner",
        "main",
        'region "Emergency stop"',
        'button "EMERGENCY STOP',
        'button "Next episode',
        'heading "Learning"',
    ):
        assert line in tree
    assert "- button\n" not in tree
    ana.running()
    ana.until("document.querySelector('#announce').textContent.includes('Base')")
    ana.page.evaluate("document.querySelector('[data-name=undo]').click()")
    ana.until("document.querySelector('#alarm').textContent.startsWith('Refused: undo is not possible now')")


class Nobody:
    """Where presses go that nobody makes."""

    def stop(self, who):
        raise AssertionError(who)

    def press(self, press, answer):
        raise AssertionError(press)


def page_server(run, port, token=TOKEN):
    server = PageServer(Nobody(), Access(token), Cameras(["base"]), History(run, 50.0), run, port=port)
    snapshot = Snapshot(task="signed in")
    server.show(page_state(snapshot, seen_of(snapshot, 0), {}, (), 0))
    return server


def test_a_browser_signs_in_once_and_stays_signed_in_when_the_node_restarts(chromium, tmp_path):
    first = page_server(tmp_path, 0)
    page = chromium.new_page()
    page.goto(first.url)
    assert page.locator("#estop").count() == 0
    ana = Person(page)
    page.fill("#token", "not the token at all")
    page.click("button")
    page.wait_for_selector("text=That is not the token")
    assert violations(ana) == []
    page.fill("#token", TOKEN)
    page.click("button")
    ana.until("document.body.dataset.link === 'live'")
    assert page.inner_text("#task") == "signed in"
    assert page.evaluate("document.cookie") == "", "no script reads it"
    first.close()
    ana.until("document.body.dataset.link === 'lost'")
    second = page_server(tmp_path, int(first.url.rpartition(":")[2].strip("/")))
    ana.until("document.body.dataset.link === 'live'")
    page.context.clear_cookies()
    second.close()
    third = page_server(tmp_path, int(first.url.rpartition(":")[2].strip("/")))
    page.wait_for_selector("#token")  # without the cookie it asks again
    third.close()
    page.close()


LATE = """
const real = fetch, late = [], states = [];
window.fetch = (what, how) => !how?.signal ? real(what, how) : new Promise((answer) => {
  late.push(() => { const got = real(what); answer(got); return got; });
});
window.WebSocket = class extends WebSocket {
  constructor(url) { super(url); if (url.endsWith("/state")) states.push(this); }
};
Object.assign(window, { late, states });
"""
"""Holds back what the page asks before it comes back, and keeps its WebSockets."""


def test_a_page_that_comes_back_while_it_still_asks_whether_it_may_has_one_connection(chromium, tmp_path):
    first = page_server(tmp_path, 0, token="")
    page = chromium.new_page()
    page.add_init_script(LATE)
    page.goto(first.url)
    ana = Person(page)
    ana.until("document.body.dataset.link === 'live'")
    first.close()
    ana.until("late.length > 0")
    second = page_server(tmp_path, int(first.url.rpartition(":")[2].strip("/")), token="")
    page.evaluate("dispatchEvent(new Event('online'))")
    ana.until("document.body.dataset.link === 'live'")
    page.evaluate("Promise.all(late.map((answered) => answered()))")
    assert page.evaluate("states.filter((socket) => socket.readyState <= WebSocket.OPEN).length") == 1
    second.close()
    page.close()


def test_on_a_phone_the_stop_is_always_in_reach_and_every_button_is_large(person):
    ana = person("Ana", **PHONE)
    ana.running()
    for part in ("#now", "#decisions", "#episodes", "#name"):
        ana.page.evaluate("part => document.querySelector(part).scrollIntoView()", part)
        box = ana.page.locator("#estop").bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= PHONE["viewport"]["height"]
    assert ana.page.evaluate("document.documentElement.scrollWidth") <= PHONE["viewport"]["width"]
    small = """[...document.querySelectorAll('button')].filter(b => b.offsetParent)
      .map(b => [b.innerText, b.getBoundingClientRect().height]).filter(([, height]) => height < 48)"""
    assert ana.page.evaluate(small) == []
    ana.page.tap("#estop")
    ana.phase("ESTOP")
