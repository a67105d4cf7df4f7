"""Load: many requests, many functions, many deploys, and handlers that take all they can get."""

from __future__ import annotations

import re

import pytest
from helpers.faas_test_utils import (
    FaaSTestHelper,
    assert_all_answered,
    assert_bundles_cleaned_up,
    assert_handler_responds,
    assert_ip_configured,
)
from helpers.waiting import wait_for_condition

pytestmark = [pytest.mark.vmtest, pytest.mark.stress]

# Reads the registry again and again until there is a file `done`; says when it has begun, and at the end how often it
# has. It fails when that is not JSON.
READER = """
python3 -c '
import json, os
reads = 0
while not os.path.exists("/root/done"):
    with open("/var/lib/faasd/registry.json") as file:
        json.load(file)
    reads += 1
    if reads == 1:
        print("begun", flush=True)
print(reads)
'
"""
# An upload that stops in the middle, and does not end.
STALLED = (
    "exec 3<>/dev/tcp/127.0.0.1/8080;"
    "printf 'POST /api/new HTTP/1.1\\r\\nX-Image-Name: stalled\\r\\nContent-Length: 1000000\\r\\n\\r\\nhalf' >&3;"
    "echo sent; exec sleep infinity"
)


@pytest.mark.slow
class TestManyRequests:
    def test_ten_at_once(self, deployed):
        assert_all_answered(deployed.helper.make_requests(deployed.ip, 12, at_once=12), 12)
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)

    def test_three_handlers_three_times_each(self, deployed, behaving):
        addresses = [deployed.ip, *(behaving(deployed.vm, f"handler-{number}") for number in range(2))]
        answers = deployed.helper.make_requests(addresses, 9, at_once=9)
        assert_all_answered(answers, 9)
        assert sorted(answer.address for answer in answers) == sorted(addresses * 3)

    def test_a_hundred_one_after_another(self, deployed):
        assert_all_answered(deployed.helper.make_requests(deployed.ip, 100), 100)
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)


@pytest.mark.slow
class TestManyHandlers:
    def test_ten_deploys_in_a_row(self, deployed):
        """Of the stock image, whose tree is unpacked once."""
        for number in range(10):
            deployed.helper.deploy_handler("/root/test-handler.tar", f"handler-{number}")
        registry = deployed.helper.read_registry()
        assert set(registry) == {*deployed.functions, *(f"handler-{number}" for number in range(10))}
        assert deployed.vm.run("ls /var/lib/faasd/images/.store | wc -l").stdout == f"{len(deployed.functions)}\n"
        assert_handler_responds(deployed.vm, registry["handler-9"]["ip"], "Hello from FaaS handler")

    def test_fifteen_handlers(self, deployed, behaving):
        addresses = [behaving(deployed.vm, f"handler-{number}") for number in range(15)]
        assert len(set(addresses)) == 15
        assert_all_answered(deployed.helper.make_requests([addresses[0], addresses[7], addresses[14]], 3, at_once=3), 3)
        assert len(deployed.helper.list_handlers()) == len(deployed.functions) + 15


@pytest.mark.slow
class TestGreedyHandlers:
    """They are held within their limits, and others go on."""

    def test_memory_hog(self, deployed, behaving):
        ip = behaving(deployed.vm, "hog", "memory", options=("--memory", "64M"))
        answers = deployed.helper.make_requests([ip, deployed.ip], 2, at_once=2)
        found = {answer.address: answer for answer in answers}
        assert found[ip].status == 502
        assert "out of memory" in found[ip].body
        assert found[deployed.ip].status == 200
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)

    def test_fork_bomb(self, deployed, behaving):
        ip = behaving(deployed.vm, "bomb", "fork", options=("--pids", "20"))
        body = deployed.helper.make_request(ip, timeout=10)
        children = re.fullmatch(r"(\d+) Resource temporarily unavailable", body)
        assert children, body
        assert int(children[1]) < 20
        assert_bundles_cleaned_up(deployed.vm, timeout=3 * deployed.vm.time_scale)
        assert deployed.helper.get_process_count("/app/handler.py") == 0
        assert_handler_responds(deployed.vm, deployed.ip, "Hello from FaaS handler")


def test_registry_under_five_deploys_at_once(deployed, behaving):
    """It is valid JSON at each read, and all five are in it."""
    vm, names = deployed.vm, [f"handler-{number}" for number in range(5)]
    behaving(vm, "first")
    reader = vm.spawn(READER)
    wait_for_condition(lambda: "begun" in reader.stdout, 20 * vm.time_scale, error_msg=lambda: reader.stderr)
    deploys = [vm.spawn(f"cat /root/first.tar | /root/faas new {name}") for name in names]
    for deploy in deploys:
        assert deploy.wait(timeout=20 * vm.time_scale) == 0, deploy.stdout
    vm.write_file("/root/done", b"")
    assert reader.wait(timeout=10 * vm.time_scale) == 0, reader.stderr
    assert int(reader.stdout.split()[-1]) > 1
    registry = deployed.helper.read_registry()
    assert set(registry) == {*deployed.functions, "first", *names}
    assert len({entry["ip"] for entry in registry.values()}) == len(registry)


@pytest.mark.slow
def test_api_answers_while_an_upload_stalls(deployed, behaving):
    vm, helper = deployed.vm, deployed.helper
    upload = vm.spawn(STALLED)
    wait_for_condition(lambda: "sent" in upload.stdout, 5 * vm.time_scale, error_msg="the upload did not begin")
    assert helper.get_handler_ip("test-handler") == deployed.ip
    assert_handler_responds(vm, behaving(vm, "second"), "Hello from FaaS handler")
    assert upload.running
    assert set(helper.read_registry()) == {*deployed.functions, "second"}


@pytest.mark.slow
def test_killed_and_started_again(vm, faasd_daemon, behaving):
    """kill -9 in the middle of a request: the next daemon cleans up, and each function is back at its address."""
    _, process = faasd_daemon(vm)
    helper = FaaSTestHelper(vm)
    quick, slow = behaving(vm, "quick"), behaving(vm, "slow", "slow", "300")
    client = vm.spawn(f"curl --silent http://{slow}/")
    wait_for_condition(
        lambda: helper.get_process_count("/app/handler.py") == 1,
        10 * vm.time_scale,
        error_msg="no handler was started",
    )
    process.kill(9)
    process.wait(timeout=10 * vm.time_scale)
    faasd_daemon(vm)
    assert client.wait(timeout=10 * vm.time_scale) != 0
    assert_bundles_cleaned_up(vm, timeout=3 * vm.time_scale)
    assert helper.get_process_count("/app/handler.py") == 0
    assert {handler["name"]: handler["ip"] for handler in helper.list_handlers()} == {"quick": quick, "slow": slow}
    assert_ip_configured(vm, slow)
    assert_handler_responds(vm, quick, "Hello from FaaS handler")
    assert vm.run("/root/faas check").stdout == "No issues\n"
