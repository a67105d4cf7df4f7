import pytest

from labyard.testing.waiting import wait_until, wait_until_async


def test_what_was_found_is_returned() -> None:
    looks = iter([None, [], ["found"]])
    assert wait_until(lambda: next(looks), "something is found") == ["found"]


def test_it_is_looked_once_more_when_the_time_is_over() -> None:
    assert wait_until(lambda: True, "it is so", 0)


def test_what_did_not_come_true_is_told_with_what_was_seen() -> None:
    with pytest.raises(AssertionError, match=r"^not within 0 s: two are there; last seen: \[\]$"):
        wait_until(list, "two are there", 0)


@pytest.mark.parametrize("seen", [None, False])
def test_a_plain_no_is_not_told(seen: bool | None) -> None:
    with pytest.raises(AssertionError, match=r"^not within 0\.1 s: it is 3, not 4$"):
        wait_until(lambda: seen, lambda: "it is 3, not 4", 0.1)


def test_an_expected_error_means_not_yet() -> None:
    answers = iter([ConnectionRefusedError("nobody there"), None])

    def look() -> bool:
        if error := next(answers):
            raise error
        return True

    assert wait_until(look, "it answers", despite=OSError)


def test_the_last_error_is_told() -> None:
    def look() -> bool:
        raise ConnectionRefusedError("nobody there")

    with pytest.raises(
        AssertionError, match=r"it answers; last raised: ConnectionRefusedError\('nobody there'\)"
    ) as told:
        wait_until(look, "it answers", 0, despite=OSError)
    assert isinstance(told.value.__cause__, ConnectionRefusedError)


def test_any_other_error_ends_the_waiting() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0 > 0, "it is so", despite=OSError)


async def test_the_same_beside_an_event_loop() -> None:
    looks = iter([0, 0, 3])
    assert await wait_until_async(lambda: next(looks), "three are there") == 3
    with pytest.raises(AssertionError, match="not within 0 s: it is so"):
        await wait_until_async(lambda: False, "it is so", 0)
