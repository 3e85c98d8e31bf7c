from tidegate.runtime.supervisor.rules.restart import DELAY_S_MAX, FLAPPING_FAILURES, FLAPPING_WINDOW_S, STABLE_S, RestartPolicy


def test_the_first_failure_costs_no_delay() -> None:
    assert RestartPolicy().failed(now=100.0).delay_s == 0


def test_failures_in_a_row_wait_twice_as_long_each_up_to_the_maximum() -> None:
    policy = RestartPolicy()
    now, delays = 0.0, []
    for _ in range(10):
        now += FLAPPING_WINDOW_S  # Slow enough not to be flapping.
        delays.append(policy.failed(now).delay_s)
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, DELAY_S_MAX, DELAY_S_MAX, DELAY_S_MAX]


def test_a_child_that_was_stable_has_a_clean_record() -> None:
    policy = RestartPolicy()
    policy.failed(0.0)
    policy.failed(1.0)
    policy.ready(2.0)
    assert policy.failed(2.0 + STABLE_S).delay_s == 0


def test_a_child_that_was_ready_only_for_a_moment_has_no_clean_record() -> None:
    policy = RestartPolicy()
    policy.failed(0.0)
    policy.ready(1.0)
    assert policy.failed(1.0 + STABLE_S - 0.1).delay_s == 0.1


def test_many_failures_in_a_short_time_are_flapping_and_tried_slowly_for_ever() -> None:
    policy = RestartPolicy()
    restarts = [policy.failed(float(second)) for second in range(FLAPPING_FAILURES * 20)]
    assert not any(restart.flapping for restart in restarts[: FLAPPING_FAILURES - 1])
    assert all(restart.flapping for restart in restarts[FLAPPING_FAILURES - 1 :])
    assert {restart.delay_s for restart in restarts if restart.flapping} == {DELAY_S_MAX}


def test_flapping_ends_when_failures_become_rare() -> None:
    policy = RestartPolicy()
    for second in range(FLAPPING_FAILURES):
        policy.failed(float(second))
    assert not policy.failed(FLAPPING_WINDOW_S * 2).flapping


def test_every_failure_is_counted() -> None:
    policy = RestartPolicy()
    for now in (0.0, 1.0, 100.0):
        policy.ready(now)
        policy.failed(now + STABLE_S)
    assert policy.failures == 3
