"""Presses on the operator page: what is stale is refused in words, what is fresh goes through once."""

from dataclasses import replace

import pytest

from rlt_msgs.msg import EpisodeState, TrainingStatus
from rlt_teleop.episode_machine import Label, Phase
from rlt_teleop.page_presses import RELABEL, RESET_ESTOP, Press, PressDesk, PressError, Seen, name_of
from rlt_teleop.page_state import BUTTONS, page_state, possible, seen_of, to_json
from rlt_teleop.status_model import NodeHealth, Snapshot

CRITICAL = Seen(episode_id=12, epoch=40, phase=int(Phase.CRITICAL))
ALL = {*BUTTONS, RESET_ESTOP, RELABEL}
HEALTH = tuple(NodeHealth(name, "ok", "") for name in ("episode_manager", "chunk_executor"))
MOVING = Snapshot(phase=Phase.CRITICAL, episode_id=12, driver="RL", health=HEALTH)
IDLE = Snapshot(phase=Phase.IDLE, episode_id=12, health=HEALTH)


def press(name, seen=CRITICAL, **more):
    return Press(name, "Ana", seen, **more)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("success", {"episode_id": 13}),
        ("discard", {"relabelling": 11}),
        ("handoff", {"phase": int(Phase.LABELLED)}),
        ("next_episode", {"phase": int(Phase.IDLE)}),
        ("undo", {"relabelling": 11}),
    ],
)
def test_a_press_that_was_meant_for_something_else_is_refused_with_both_states(name, change):
    words = PressDesk().judge(press(name), replace(CRITICAL, **change), ALL, 0.0)
    assert "was meant for episode 12 in CRITICAL; now it is " in words
    assert words.endswith("nothing was done")


def test_a_human_who_takes_over_meanwhile_makes_no_label_stale():
    assert PressDesk().judge(press("success"), replace(CRITICAL, epoch=41), ALL, 0.0) == ""


def test_the_second_of_two_presses_in_one_state_waits_for_what_comes_of_the_first():
    desk = PressDesk()
    assert desk.judge(press("success"), CRITICAL, ALL, 0.0) == ""
    desk.passed_on(press("success"), CRITICAL, 0.0)
    assert "Ana has just pressed success" in desk.judge(press("failure"), CRITICAL, ALL, 0.1)
    assert (
        desk.judge(press("failure", replace(CRITICAL, episode_id=13)), replace(CRITICAL, episode_id=13), ALL, 0.2) == ""
    )


def test_a_press_without_effect_is_told_once():
    desk = PressDesk()
    desk.passed_on(press("next_episode"), CRITICAL, 0.0)
    assert desk.without_effect(CRITICAL, 0.5) == ""
    assert "nothing has come of Ana's next episode" in desk.without_effect(CRITICAL, 1.1)
    assert desk.without_effect(CRITICAL, 1.2) == ""
    desk.passed_on(press("next_episode"), CRITICAL, 2.0)
    assert desk.without_effect(replace(CRITICAL, episode_id=13), 9.0) == "", "it had its effect"


def test_the_emergency_stop_is_released_on_purpose_and_not_after_another_stop():
    desk = PressDesk()
    assert "looked at" in desk.judge(press(RESET_ESTOP), CRITICAL, ALL, 0.0)
    again = replace(CRITICAL, stops=1)
    assert "pressed again" in desk.judge(press(RESET_ESTOP, confirmed=True), again, ALL, 0.0)
    assert desk.judge(press(RESET_ESTOP, again, confirmed=True), again, ALL, 0.0) == ""


def test_what_the_manager_would_not_accept_is_not_passed_on():
    assert "handoff is not possible now" in PressDesk().judge(press("handoff"), CRITICAL, {"success"}, 0.0)


SEEN = {"episode_id": 1, "epoch": 2, "phase": 3, "relabelling": 0, "stops": 0}


@pytest.mark.parametrize(
    "data",
    [
        {"press": "shutdown", "seen": SEEN},
        {"press": "success"},
        {"press": "success", "seen": {**SEEN, "epoch": "2"}},
        {"press": "success", "seen": {**SEEN, "episode_id": -1}},
        {"press": "success", "seen": {**SEEN, "more": 1}},
        {"press": "relabel", "seen": SEEN, "episode_id": 2.5},
        {"press": "relabel", "seen": SEEN, "episode_id": 1, "label": ["success"]},
    ],
)
def test_a_malformed_press_is_refused(data):
    with pytest.raises(PressError):
        Press.parse(data, "Ana")


def test_an_emergency_stop_needs_nothing_else():
    assert Press.parse({"press": "estop", "seen": "nonsense"}, "Ana").name == "estop"


def test_names_are_short_and_printable():
    assert name_of("  Ana \x1b[2J Maria  ", 3) == "Ana \N{REPLACEMENT CHARACTER}[2J Maria"
    assert len(name_of("x" * 1000, 3)) == 24
    assert name_of(None, 3) == name_of(" ", 3) == "operator 3"


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (IDLE, {"next_episode", "undo", RELABEL}),
        (replace(MOVING, phase=Phase.BASE), {"handoff", "success", "failure", "discard", RELABEL}),
        (MOVING, {"success", "failure", "discard", RELABEL}),
        (replace(MOVING, phase=Phase.RESETTING), {"discard", "undo", RELABEL}),
        (replace(MOVING, phase=Phase.LABELLED), set()),
        (replace(IDLE, relabelling=11), {"success", "failure", "discard", "undo", "next_episode", RELABEL}),
        (replace(IDLE, phase=Phase.ESTOP, estop=True), {RESET_ESTOP, RELABEL}),
        (replace(MOVING, estop=True), {RESET_ESTOP, RELABEL}),
        (replace(MOVING, health=()), set()),
        (replace(MOVING, health=(NodeHealth("episode_manager", "silent", ""),)), set()),
    ],
)
def test_only_what_would_be_accepted_is_offered(snapshot, expected):
    offered = set(possible(snapshot, scene_resets_itself=True, ended=True))
    assert offered - {"enable", "estop"} == expected


def test_who_resets_the_scene_by_hand_says_so_and_without_an_ended_episode_nothing_is_undone():
    resetting = replace(MOVING, phase=Phase.RESETTING)
    assert "the scene is reset" in possible(resetting, scene_resets_itself=False, ended=True)["next_episode"]
    assert "undo" not in possible(IDLE, scene_resets_itself=True, ended=False)


def test_who_is_silent_is_named():
    snapshot = replace(MOVING, health=(NodeHealth("episode_manager", "silent", ""), HEALTH[1]))
    assert page_state(snapshot, seen_of(snapshot, 0), {}, (), 0)["silent"] == ["episode_manager"]
    assert page_state(MOVING, seen_of(MOVING, 0), {}, (), 0)["silent"] == []


def test_the_picture_is_json_whatever_the_graph_says():
    training = TrainingStatus(stage="online\x07", q_mean=float("nan"), message="</script><b>")
    snapshot = replace(MOVING, training=training, reason="\x1b[31m", label=Label.SUCCESS, confirmation=99, phase=None)
    desk = PressDesk()
    desk.note(1.0, "A\nB", "text\r")
    picture = page_state(snapshot, seen_of(snapshot, 0), {}, tuple(desk.log), 3)
    text = to_json(picture)
    assert "\x1b" not in text
    assert "NaN" not in text
    assert '"q_mean":null' in text
    assert picture["confirmation"] == "unknown"
    assert [button["enabled"] for button in picture["buttons"]] == [False] * len(BUTTONS)
    assert EpisodeState.PHASE_ESTOP != picture["seen"]["phase"] == 255
