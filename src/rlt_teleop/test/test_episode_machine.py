"""The phases of an episode as a specification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlt_common.codecs import HIGHEST_EPISODE_ID
from rlt_msgs.msg import EpisodeState
from rlt_teleop.episode_machine import (
    COUNT_OF,
    MOVING,
    CommandRefused,
    Confirmation,
    Driver,
    Episode,
    EpisodeMachine,
    EpisodeSpec,
    Label,
    Phase,
    Purpose,
)


def spec(**changes) -> EpisodeSpec:
    values = {
        "purpose": Purpose.TRAIN,
        "driver": Driver.RL,
        "explore": True,
        "start_in": "full",
        "seed": 5,
        "execute_steps": 10,
        "max_base_steps": 200,
        "max_critical_steps": 300,
        "actor_version": 3,
    }
    return EpisodeSpec(**{**values, **changes})


def in_phase(phase: Phase, **changes) -> EpisodeMachine:
    machine = EpisodeMachine("screw", last_episode_id=6)
    if phase == Phase.IDLE:
        return machine
    machine.start(spec(**changes))
    if phase == Phase.RESETTING:
        return machine
    machine.scene_ready()
    if phase == Phase.BASE:
        return machine
    machine.hand_off(42)
    if phase == Phase.LABELLED:
        machine.label(Label.SUCCESS, "button")
    elif phase == Phase.ESTOP:
        machine.estop("button")
    return machine


def test_a_full_episode():
    machine = EpisodeMachine("screw")
    assert machine.episode.episode_id == 0
    machine.start(spec())
    assert machine.episode.phase == Phase.RESETTING
    assert (machine.episode.episode_id, machine.episode.epoch) == (1, 1)
    machine.scene_ready()
    assert machine.episode.phase == Phase.BASE
    assert machine.episode.driver == Driver.VLA
    machine.hand_off(42)
    assert machine.episode.phase == Phase.CRITICAL
    assert machine.episode.driver == Driver.RL
    assert machine.episode.handoff_step == 42
    assert machine.episode.epoch == 2
    machine.label(Label.SUCCESS, "button")
    assert machine.episode.phase == Phase.LABELLED
    assert (machine.episode.episodes, machine.episode.successes) == (0, 0), "its file is not durable yet"
    machine.confirm(1)
    assert machine.episode.confirmation == Confirmation.DONE
    assert (machine.episode.episodes, machine.episode.successes) == (1, 1)
    machine.close("written")
    assert machine.episode.phase == Phase.IDLE
    assert machine.episode.label == Label.SUCCESS, "a late reader still learns how it ended"
    machine.start(spec())
    assert machine.episode.episode_id == 2
    assert machine.episode.label == Label.NONE
    assert machine.episode.confirmation == Confirmation.PENDING


def test_an_episode_without_a_file_is_a_discard_and_counts_nowhere():
    machine = in_phase(Phase.LABELLED)
    machine.lose(7, "the recorder was interrupted")
    episode = machine.episode
    assert (episode.phase, episode.label, episode.confirmation) == (Phase.IDLE, Label.DISCARD, Confirmation.LOST)
    assert "labelled success, is lost, a discard: the recorder was interrupted" in episode.reason
    assert (episode.episodes, episode.successes, episode.discards) == (0, 0, 0)
    with pytest.raises(CommandRefused, match="does not wait for its file"):
        machine.confirm(7)
    machine.found(7)
    episode = machine.episode
    assert (episode.label, episode.confirmation) == (Label.DISCARD, Confirmation.DONE)
    assert (episode.episodes, episode.successes, episode.discards) == (1, 0, 1)


def test_a_label_before_an_emergency_stop_counts_once_its_file_is_durable():
    machine = in_phase(Phase.LABELLED)
    machine.estop("red button")
    assert machine.pending == (7,)
    machine.confirm(7)
    assert (machine.episode.phase, machine.episode.successes) == (Phase.ESTOP, 1)
    assert machine.pending == ()


def test_a_label_that_is_not_confirmed_cannot_be_corrected():
    machine = in_phase(Phase.LABELLED)
    machine.estop("red button")
    with pytest.raises(CommandRefused, match="not confirmed yet"):
        machine.check_relabel(7)
    machine.confirm(7)
    machine.check_relabel(7)
    machine.relabelled(7, Label.SUCCESS, Label.FAILURE, "wrong button")
    assert (machine.episode.successes, machine.episode.failures, machine.episode.label) == (0, 1, Label.FAILURE)


def test_who_holds_the_take_over_button_when_the_episode_begins_has_control():
    machine = EpisodeMachine("screw")
    with pytest.raises(CommandRefused):
        machine.intervene()
    machine.start(spec())
    machine.scene_ready()
    assert machine.episode.human_in_control
    machine.release()
    assert not machine.episode.human_in_control
    machine.label(Label.SUCCESS, "")
    machine.confirm(1)
    assert machine.episode.interventions == 1
    machine.close("")
    machine.start(spec())
    with pytest.raises(CommandRefused):
        machine.intervene()
    with pytest.raises(CommandRefused):
        machine.release()
    machine.scene_ready()
    assert not machine.episode.human_in_control, "let go before it began"


def test_a_demonstration_is_no_intervention():
    machine = in_phase(Phase.BASE, driver=Driver.HUMAN, purpose=Purpose.COLLECT)
    machine.label(Label.SUCCESS, "")
    machine.confirm(7)
    assert machine.episode.interventions == 0


def test_a_hand_off_decided_in_another_epoch_is_refused():
    machine = in_phase(Phase.BASE)
    decided = machine.episode.epoch
    machine.intervene()
    with pytest.raises(CommandRefused, match=f"decided in epoch {decided}, it is {decided + 1}"):
        machine.hand_off(7, "hand-off by auto_handoff", decided)
    machine.hand_off(7, "hand-off by auto_handoff", decided + 1)
    assert machine.episode.reason == "hand-off by auto_handoff"


def test_critical_stage_skips_base():
    machine = in_phase(Phase.RESETTING, start_in="critical")
    machine.scene_ready()
    assert machine.episode.phase == Phase.CRITICAL
    assert machine.episode.driver == Driver.RL
    assert machine.episode.handoff_step == 0


def test_a_human_overlays_and_keeps_the_phase():
    machine = in_phase(Phase.CRITICAL)
    epoch = machine.episode.epoch
    machine.intervene()
    assert machine.episode.human_in_control
    assert machine.episode.phase == Phase.CRITICAL
    machine.release()
    assert not machine.episode.human_in_control
    assert machine.episode.epoch == epoch + 2


def test_a_demonstration_stays_with_the_human():
    machine = in_phase(Phase.BASE, driver=Driver.HUMAN, purpose=Purpose.COLLECT)
    assert machine.episode.human_in_control
    assert machine.episode.driver == Driver.HUMAN
    with pytest.raises(CommandRefused, match="whole episode"):
        machine.release()


@pytest.mark.parametrize("phase", [Phase.BASE, Phase.CRITICAL])
def test_time_out_is_its_own_label(phase):
    machine = in_phase(phase)
    machine.time_out()
    assert machine.episode.label == Label.TIMEOUT
    assert phase.name in machine.episode.reason


@pytest.mark.parametrize("phase", [Phase.RESETTING, Phase.BASE, Phase.CRITICAL])
def test_emergency_stop_discards_what_runs(phase):
    machine = in_phase(phase)
    machine.estop("red button")
    assert machine.episode.phase == Phase.ESTOP
    assert machine.episode.label == Label.DISCARD
    assert machine.episode.reason == "red button"
    machine.reset_estop()
    assert machine.episode.phase == Phase.IDLE


def test_emergency_stop_after_the_label_keeps_the_label():
    machine = in_phase(Phase.LABELLED)
    machine.estop("red button")
    assert machine.episode.label == Label.SUCCESS


REFUSALS = [
    (Phase.IDLE, lambda m: m.label(Label.SUCCESS, ""), "start an episode first"),
    (Phase.IDLE, lambda m: m.hand_off(1), "start an episode first"),
    (Phase.IDLE, lambda m: m.intervene(), "start an episode first"),
    (Phase.RESETTING, lambda m: m.label(Label.SUCCESS, ""), "wait for the reset"),
    (Phase.RESETTING, lambda m: m.start(spec()), "wait for the reset"),
    (Phase.BASE, lambda m: m.start(spec()), "label or discard it first"),
    (Phase.BASE, lambda m: m.release(), "no human is in control"),
    (Phase.BASE, lambda m: m.confirm(7), "does not wait for its file"),
    (Phase.BASE, lambda m: m.lose(7, ""), "does not wait for its file"),
    (Phase.BASE, lambda m: m.close(""), "running"),
    (Phase.BASE, lambda m: m.label(Label.TIMEOUT, ""), "choose success, failure or discard"),
    (Phase.CRITICAL, lambda m: m.hand_off(50), "running"),
    (Phase.LABELLED, lambda m: m.label(Label.FAILURE, ""), "has its label already"),
    (Phase.LABELLED, lambda m: m.start(spec()), "until the episode is confirmed"),
    (Phase.ESTOP, lambda m: m.start(spec()), "reset the emergency stop first"),
    (Phase.ESTOP, lambda m: m.intervene(), "reset the emergency stop first"),
]


@pytest.mark.parametrize(("phase", "command", "why"), REFUSALS)
def test_a_command_that_does_not_fit_is_refused_and_changes_nothing(phase, command, why):
    machine = in_phase(phase)
    before = machine.episode
    with pytest.raises(CommandRefused, match=why):
        command(machine)
    assert machine.episode == before


def test_a_restarted_manager_is_news_to_an_executor_that_still_plays():
    machine = EpisodeMachine("screw", last_episode_id=6)
    assert (machine.episode.episode_id, machine.episode.epoch) > (6, 99)
    assert machine.overtake(9, 4)
    assert (machine.episode.episode_id, machine.episode.epoch) > (9, 4)
    assert not machine.overtake(9, 4)
    machine.start(spec())
    assert machine.episode.episode_id == 10


def test_a_running_episode_is_not_overtaken():
    machine = in_phase(Phase.BASE)
    assert not machine.overtake(100, 0)


def test_the_hand_off_step_is_corrected_once():
    machine = in_phase(Phase.CRITICAL)
    assert machine.correct_handoff(43)
    assert not machine.correct_handoff(43)
    assert machine.episode.handoff_step == 43


def test_message_round_trip():
    episode = in_phase(Phase.CRITICAL).episode
    message = episode.to_msg()
    assert isinstance(message, EpisodeState)
    assert message.seed == 5
    assert message.driver == EpisodeState.DRIVER_RL
    assert Episode.from_msg(message) == episode


@pytest.mark.parametrize("driver", [Driver.VLA, Driver.RL, Driver.HUMAN])
def test_the_policy_that_was_asked_for_is_told_before_the_hand_off_too(driver):
    machine = EpisodeMachine("screw")
    machine.start(spec(driver=driver))
    assert machine.episode.to_msg().critical_driver == driver
    machine.scene_ready()
    machine.time_out()
    assert machine.episode.critical_driver == driver
    assert machine.episode.driver == (Driver.HUMAN if driver == Driver.HUMAN else Driver.VLA)


def test_a_message_of_before_it_was_told_is_taken_by_its_driver():
    message = in_phase(Phase.CRITICAL).episode.to_msg()
    message.critical_driver = 0
    assert Episode.from_msg(message).critical_driver == Driver.RL


def test_a_message_with_an_unknown_phase_is_an_error():
    message = in_phase(Phase.CRITICAL).episode.to_msg()
    message.phase = 99
    with pytest.raises(ValueError, match="99"):
        Episode.from_msg(message)


COMMANDS = {
    "start": lambda m: m.start(spec()),
    "start critical": lambda m: m.start(spec(start_in="critical")),
    "start human": lambda m: m.start(spec(driver=Driver.HUMAN)),
    "scene ready": lambda m: m.scene_ready(),
    "hand off": lambda m: m.hand_off(7),
    "correct": lambda m: m.correct_handoff(8),
    "intervene": lambda m: m.intervene(),
    "release": lambda m: m.release(),
    "success": lambda m: m.label(Label.SUCCESS, ""),
    "failure": lambda m: m.label(Label.FAILURE, ""),
    "discard": lambda m: m.label(Label.DISCARD, ""),
    "time out": lambda m: m.time_out(),
    "confirm": lambda m: m.confirm(m.episode.episode_id),
    "lose": lambda m: m.lose(m.episode.episode_id, ""),
    "found": lambda m: m.found(m.episode.episode_id),
    "close": lambda m: m.close(""),
    "estop": lambda m: m.estop("stop"),
    "reset estop": lambda m: m.reset_estop(),
    "overtake": lambda m: m.overtake(3, 30),
}


@given(st.lists(st.sampled_from(sorted(COMMANDS)), max_size=60))
def test_whatever_is_pressed(names):
    machine = EpisodeMachine("screw")
    labels: dict[int, set[Label]] = {}
    released = True  # no motion until the stop was reset and a new episode was started
    for name in names:
        before = machine.episode
        refused = False
        try:
            COMMANDS[name](machine)
        except CommandRefused:
            refused = True
        after = machine.episode
        if refused:
            assert after == before
            continue
        assert after.epoch >= before.epoch, "the epoch never falls"
        assert (after.episode_id, after.epoch) >= (before.episode_id, before.epoch)
        if after.label != Label.NONE and after.confirmation != Confirmation.LOST and name != "found":
            labels.setdefault(after.episode_id, set()).add(after.label)
        if name == "estop":
            released = False
        if before.phase == Phase.IDLE and name.startswith("start"):
            released = True
        if after.phase in MOVING:
            assert released, "no motion after an emergency stop without reset and new start"
        else:
            assert not after.human_in_control
        if before.phase in MOVING and after.phase not in MOVING:
            assert after.label != Label.NONE, "an episode never ends without a label"
        changed_hands = before.human_in_control != after.human_in_control
        if changed_hands and name in ("intervene", "release"):
            assert after.epoch > before.epoch
        assert after.episodes == sum(getattr(after, count) for count in COUNT_OF.values())
        if after.confirmation == Confirmation.LOST:
            assert after.label == Label.DISCARD, "a lost episode is a discard"
        if after.episodes > before.episodes:
            assert after.confirmation == Confirmation.DONE, "an episode counts once it is confirmed"
    assert all(len(given_labels) == 1 for given_labels in labels.values()), "a label is given at most once"


@pytest.mark.parametrize(("episode_id", "epoch"), [(2**64 - 1, 1), (1, 2**32 - 1), (HIGHEST_EPISODE_ID + 1, 0)])
def test_what_no_run_reaches_is_not_believed(episode_id, epoch):
    machine = EpisodeMachine("screw")
    assert not machine.overtake(episode_id, epoch)
    assert (machine.episode.episode_id, machine.episode.epoch) == (0, 0)
    with pytest.raises(ValueError, match="there is no episode"):
        Episode.from_msg(EpisodeState(episode_id=episode_id, epoch=epoch))
