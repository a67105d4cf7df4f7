"""From the deploy to the end of the container: the whole way of a request, and that nothing of it stays behind."""

from __future__ import annotations

import pytest
from helpers.faas_test_utils import (
    FaaSTestHelper,
    assert_all_answered,
    assert_bundles_cleaned_up,
    assert_handler_responds,
    assert_ip_configured,
    assert_rootfs_exists,
)

pytestmark = [pytest.mark.vmtest, pytest.mark.integration]

HELLO = "Hello from FaaS handler"


class TestContainerLifecycle:
    def test_deploy_and_invoke_handler(self, vm, vm_files):
        """The requirement document's example, but that it waits where the document sleeps for 2 s."""
        for dest_path, content in vm_files.items():
            vm.write_file(dest_path, content)

        vm.run("chmod +x /root/faasd.py /root/faas")
        vm.run("mkdir -p /var/lib/faasd")

        faasd_proc = vm.spawn("/root/faasd.py")
        helper = FaaSTestHelper(vm)
        helper.wait_for_api()

        handler_ip = helper.deploy_handler("/root/test-handler.tar", "test-handler")

        assert_handler_responds(vm, handler_ip, "Hello from FaaS handler")

        faasd_proc.kill()
        assert faasd_proc.wait() == 0

    def test_state_assertions(self, deployed):
        """The document's list of what can be asked of a VM, each with the answer that it has to give."""
        vm, helper = deployed.vm, deployed.helper
        assert_ip_configured(vm, "10.0.0.10", should_exist=True)
        assert_rootfs_exists(vm, "test-handler")
        assert helper.get_handler_ip("test-handler") == "10.0.0.10"
        listed = {"name": "test-handler", "ip": "10.0.0.10", "command": "python3 /app/handler.py"}
        assert listed in helper.list_handlers()
        assert "Request: GET /test HTTP/1.1" in helper.make_request("10.0.0.10", path="/test", timeout=5)
        assert helper.check_ip_has_label("10.0.0.10", "lo:faas")
        assert helper.read_registry()["test-handler"]["cmd"] == ["python3", "/app/handler.py"]
        assert_bundles_cleaned_up(vm, timeout=5 * vm.time_scale)
        # And what is not there is not found.
        assert_ip_configured(vm, "10.0.0.1", should_exist=False)
        assert not helper.check_ip_has_label("10.0.0.10", "lo")
        assert not helper.check_rootfs_exists("test")
        for wrong in (
            lambda: assert_ip_configured(vm, "10.0.0.1"),
            lambda: assert_rootfs_exists(vm, "test"),
            lambda: assert_handler_responds(vm, "10.0.0.10", "Goodbye"),
            lambda: helper.get_handler_ip("test"),
            lambda: helper.make_request("10.0.0.1"),
            lambda: helper.deploy_handler("/dev/null", "test"),
        ):
            with pytest.raises(AssertionError):
                wrong()

    def test_rootfs_is_extracted_once_and_reused(self, deployed):
        """The tree that requests use is the one of the deploy: the same folder, and no file of it written since."""
        facts = "stat --dereference --format '%i %Z' /var/lib/faasd/images/test-handler/rootfs"
        before = deployed.vm.run(facts).stdout
        assert_all_answered(deployed.helper.make_requests(deployed.ip, 5), 5)
        assert deployed.vm.run(facts).stdout == before
        assert deployed.vm.run("ls /var/lib/faasd/images/test-handler/ | grep --count rootfs").stdout == "1\n"
        assert deployed.vm.run("ls /var/lib/faasd/images/.store | wc -l").stdout == f"{len(deployed.functions)}\n"

    def test_two_handlers(self, deployed, behaving):
        vm, helper = deployed.vm, deployed.helper
        second = behaving(vm, "second")
        assert second != deployed.ip
        assert_handler_responds(vm, deployed.ip, HELLO)
        assert_handler_responds(vm, second, HELLO)
        assert {handler["name"]: handler["ip"] for handler in helper.list_handlers()} == {
            **deployed.functions,
            "second": second,
        }

    def test_bundles_go_and_the_rootfs_stays(self, deployed):
        vm, helper = deployed.vm, deployed.helper
        assert_all_answered(helper.make_requests(deployed.ip, 3, at_once=3), 3)
        assert_bundles_cleaned_up(vm, timeout=3 * vm.time_scale)
        assert_rootfs_exists(vm, "test-handler")
        assert vm.run("ls /tmp/faas-*.sock", check=False).returncode != 0
        assert vm.run("ls /run/faasd/runc").stdout == ""
        assert helper.get_process_count("/app/handler.py") == 0


class TestFailingHandlers:
    """A handler that fails is a 502 that says why, and leaves nothing behind."""

    def test_handler_exits_with_an_error(self, deployed, behaving):
        ip = behaving(deployed.vm, "exits", "exit-early", "1")
        [answer] = deployed.helper.make_requests(ip, 1)
        assert answer.status == 502
        assert "handler exited with code 1 before it connected" in answer.body
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)
        assert "something is wrong" in deployed.vm.run("/root/faas logs exits").stdout

    def test_program_is_not_in_the_image(self, deployed, behaving):
        ip = behaving(deployed.vm, "bad-exec", Cmd=["/no/such/program"])
        [answer] = deployed.helper.make_requests(ip, 1)
        assert answer.status == 502
        assert "/no/such/program" in answer.body
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)

    def test_handler_floods_stderr(self, deployed, behaving):
        """A megabyte that nobody reads would stop it: it is read, and the end of it kept."""
        answering = behaving(deployed.vm, "flood", "flood")
        failing = behaving(deployed.vm, "flood-and-exit", "flood-and-exit", "1")
        answers = deployed.helper.make_requests([answering, failing], 2)
        assert {answer.address: answer.status for answer in answers} == {answering: 200, failing: 502}
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)
        assert "the end" in deployed.vm.run("/root/faas logs flood-and-exit").stdout

    def test_a_failure_hurts_only_its_own_request(self, deployed, behaving):
        failing = behaving(deployed.vm, "exits", "exit-early", "1")
        answers = deployed.helper.make_requests([failing, deployed.ip], 6, at_once=3)
        assert sorted(answer.status for answer in answers) == [200, 200, 200, 502, 502, 502]
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)


@pytest.mark.slow
def test_rapid_requests(deployed):
    """Twenty as quickly as they come, ten at a time."""
    assert_all_answered(deployed.helper.make_requests(deployed.ip, 20, at_once=10), 20)
    assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)
