"""When a person is reminded, and when the wait is given up."""

from rlt_teleop.operator_wait import OperatorWait, Wait, Wanted


def test_it_reminds_again_and_again_and_for_ever_by_default():
    wait = OperatorWait(remind_s=30.0)
    assert wait.update(Wanted("reset the scene"), 0.0) == Wait.CHANGED
    found = [wait.update(Wanted("reset the scene"), float(now)) for now in range(1, 100)]
    assert [now for now, what in enumerate(found, start=1) if what == Wait.REMIND] == [30, 60, 90]
    assert wait.reminders == 3
    assert set(found) == {Wait.NOTHING, Wait.REMIND}


def test_the_limit_is_said_once():
    wait = OperatorWait(remind_s=1000.0)
    reset = Wanted("reset the scene", limit_s=60.0)
    wait.update(reset, 5.0)
    found = [wait.update(reset, float(now)) for now in range(6, 200)]
    assert found.count(Wait.EXPIRED) == 1
    assert found.index(Wait.EXPIRED) + 6 == 65


def test_something_else_starts_anew():
    wait = OperatorWait(remind_s=30.0)
    wait.update(Wanted("one"), 0.0)
    wait.update(Wanted("one"), 31.0)
    assert wait.update(Wanted("two"), 32.0) == Wait.CHANGED
    assert wait.reminders == 0
    assert wait.update(Wanted("two"), 61.0) == Wait.NOTHING
    assert wait.update(Wanted(""), 62.0) == Wait.CHANGED
    assert wait.update(Wanted(""), 1000.0) == Wait.NOTHING


def test_what_can_wait_is_shown_and_never_reminded_of():
    wait = OperatorWait(remind_s=30.0)
    found = {wait.update(Wanted("press next episode", remind=False), float(now)) for now in range(1000)}
    assert found == {Wait.CHANGED, Wait.NOTHING}
    assert (wait.text, wait.reminders) == ("press next episode", 0)
