"""The handoff: the client's TCP connection is given to the handler as a file descriptor (SCM_RIGHTS)."""

from __future__ import annotations

import json

import pytest
from helpers.faas_test_utils import assert_all_answered, assert_bundles_cleaned_up
from helpers.waiting import wait_for_condition

pytestmark = [pytest.mark.vmtest, pytest.mark.integration]

# A client that goes away as soon as it has asked.
HANG_UP = "exec 3<>/dev/tcp/{ip}/80; printf 'GET / HTTP/1.1\\r\\n\\r\\n' >&3; exec 3>&-"


class TestHandoff:
    def test_handler_gets_the_connection(self, deployed, behaving):
        """The real client, the function's own address, blocking, and nothing but this one descriptor."""
        ip = behaving(deployed.vm, "facts", "facts")
        facts = json.loads(deployed.helper.make_request(ip))
        assert facts["peer"][0] == ip  # who asks an address of its own host has that address, too
        assert facts["name"] == [ip, 80]
        assert facts["blocking"] is True

    def test_both_directions(self, deployed):
        """What the client wrote comes back from the handler: not a byte of it was read on the way."""
        body = deployed.helper.make_request(deployed.ip, path="/test/path")
        assert body == "Hello from FaaS handler!\nRequest: GET /test/path HTTP/1.1\n"

    def test_ten_one_after_another(self, deployed):
        assert_all_answered(deployed.helper.make_requests(deployed.ip, 10), 10)
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)

    def test_five_at_once(self, deployed):
        answers = deployed.helper.make_requests(deployed.ip, 5, at_once=5, path="/at/once")
        assert_all_answered(answers, 5, "Request: GET /at/once HTTP/1.1")
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)


class TestHandlersThatDoNot:
    def test_never_connects(self, deployed, behaving):
        """504 at 5 s. The container is killed, and not only the program that started it."""
        deployed.helper.stop_daemon()
        deployed.vm.spawn("/root/faasd.py")  # with its own limits
        deployed.helper.wait_for_api()
        ip = behaving(deployed.vm, "never", "never-connects")
        [answer] = deployed.helper.make_requests(ip, 1)
        assert answer.status == 504
        assert "handler did not connect within 5 s" in answer.body
        assert 5 <= answer.seconds <= 5 + 2 * deployed.vm.time_scale
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)
        assert deployed.helper.get_process_count("/app/handler.py") == 0

    @pytest.mark.slow
    def test_runs_too_long(self, deployed, behaving):
        """A handler that would take 40 s is killed at 30."""
        ip = behaving(deployed.vm, "slow", "slow", "40")
        [answer] = deployed.helper.make_requests(ip, 1)
        assert answer.status == 504
        assert "handler exceeded 30 s" in answer.body
        assert 30 <= answer.seconds <= 31 + 2 * deployed.vm.time_scale
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)
        assert deployed.helper.get_process_count("/app/handler.py") == 0


class TestEarlyClose:
    def test_handler_closes_and_goes_on(self, deployed, behaving):
        """The answer is complete, though its container lives on until its time is over."""
        ip = behaving(deployed.vm, "goes-on", "goes-on", options=("--timeout", "10"))
        # By its length: this handler, like most, has a second copy of the descriptor, which ends with it.
        assert deployed.helper.make_request(ip) == "reply"
        assert deployed.helper.count_bundles() == 1
        assert_bundles_cleaned_up(deployed.vm, timeout=13 * deployed.vm.time_scale)
        assert deployed.helper.get_process_count("/app/handler.py") == 0

    def test_client_hangs_up(self, deployed):
        deployed.vm.run(HANG_UP.format(ip=deployed.ip))
        wait_for_condition(
            lambda: json.loads(deployed.vm.run("/root/faas stats").stdout)["containers"] == 0,
            5 * deployed.vm.time_scale,
            error_msg="the container of a client that is gone is still there",
        )
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)
        assert_all_answered(deployed.helper.make_requests(deployed.ip, 1), 1)


@pytest.mark.slow
def test_nothing_leaks_over_fifty_requests(deployed):
    helper = deployed.helper
    before = helper.count_daemon_resources()
    assert_all_answered(helper.make_requests(deployed.ip, 50, at_once=5), 50)
    assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)
    wait_for_condition(
        lambda: all(number <= before[name] for name, number in helper.count_daemon_resources().items()),
        5 * deployed.vm.time_scale,
        error_msg=lambda: f"before {before}, after {helper.count_daemon_resources()}",
    )
    assert deployed.vm.run("ls /tmp/faas-*.sock", check=False).returncode != 0
