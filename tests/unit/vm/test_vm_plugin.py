"""The plugin in a project that has no image: options, markers, skips."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest

def test_with_vm(vm):
    pass

def test_through_another(helper):
    pass

@pytest.fixture
def helper(vm_factory):
    return vm_factory()

@pytest.mark.slow
@pytest.mark.vmtest
def test_slow():
    pass

@pytest.mark.unit
def test_plain():
    pass

@pytest.mark.integration
@pytest.mark.stress
def test_files(vm_files):
    assert vm_files == {}
"""


@pytest.fixture
def project(pytester):
    pytester.makeini(
        "[pytest]\naddopts = --strict-markers --strict-config\nasyncio_default_fixture_loop_scope = function\n"
    )
    pytester.makepyfile(TESTS)
    return pytester


def test_without_an_image_tests_are_skipped_with_the_way_out(project):
    result = project.runpytest("-rs")
    result.assert_outcomes(passed=3, skipped=2)
    result.stdout.fnmatch_lines(["vm: no VM image in *build/vm: run `make vm-image`*", "SKIPPED*run `make vm-image`*"])


def test_required_they_fail(project):
    result = project.runpytest("--vm-require")
    # vm is made before the test, and in test_through_another, too.
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["*no VM image in *"])


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("vmtest", 3),
        ("not vmtest", 2),
        ("vmtest and not slow", 2),
        ("slow", 1),
        ("unit", 1),
        ("integration and stress", 1),
    ],
)
def test_markers_select(project, expression, selected):
    result = project.runpytest("-m", expression, "--collect-only", "-q")
    assert sum("::test_" in line for line in result.outlines) == selected


def test_no_qemu(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    project.runpytest("-rs").stdout.fnmatch_lines(["SKIPPED*qemu-system-x86_64 not found: apt-get install*"])


def test_tests_with_a_vm_have_their_own_time_limit(project):
    project.makeconftest(
        """
        def pytest_collection_finish(session):
            for item in session.items:
                print(item.name, [marker.args[0] for marker in item.iter_markers("timeout")])
        """
    )
    result = project.runpytest("--collect-only", "-q", "-s")
    result.stdout.fnmatch_lines(["test_with_vm [[]120[]]", "test_slow [[]600[]]", "test_plain [[][]]"])


def test_an_accelerator_that_there_is_not(project):
    result = project.runpytest("--vm-accel=xen")
    result.stderr.fnmatch_lines(["*--vm-accel*invalid choice*"])


def test_time_that_is_over_while_artefacts_are_collected_ends_no_run(pytester):
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile("""
        import time
        import pytest
        from labyard.testing.vm import artefacts, plugin

        @pytest.fixture
        def vm_of_a_busy_machine(request, monkeypatch):
            request.node.stash[plugin.VMS] = [None]
            monkeypatch.setattr(artefacts, "collect", lambda vm, folder: time.sleep(60))

        @pytest.mark.timeout(5)
        def test_fails(vm_of_a_busy_machine):
            raise AssertionError("the reason")

        def test_after_it():
            pass
    """)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: the reason"])
