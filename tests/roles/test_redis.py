"""What the role redis promises."""

from __future__ import annotations

from conftest import assert_gone, assert_runs

from labyard.lab import LabHost


def ask(host: LabHost, *words: str, user: str = "redis") -> str:
    command = f"setpriv --reuid {user} --init-groups redis-cli -s {host.value('redis_socket')}"
    password = host.value("redis_password")
    if password:
        command += f" --no-auth-warning -a {password}"
    return str(host.run(command + " %s" * len(words), *words).stdout).strip()


class TestApplied:
    def test_runs(self, host: LabHost) -> None:
        assert_runs(host, "redis-server.service")

    def test_members_of_its_group_use_its_socket_and_others_do_not(self, host: LabHost) -> None:
        assert ask(host, "PING") == "PONG"
        assert ask(host, "PING", user="games") != "PONG"

    def test_keeps_nothing_over_a_restart(self, host: LabHost) -> None:
        assert ask(host, "SET", "labyard-check", "1", "EX", "600") == "OK"
        host.check("systemctl restart redis-server.service")
        assert ask(host, "EXISTS", "labyard-check") == "0"

    def test_listens_where_it_was_told(self, host: LabHost) -> None:
        port = host.value("redis_port")
        listening = [line.split()[3] for line in host.check("ss -H -ltnp").splitlines() if "redis-server" in line]
        assert listening == ([f"127.0.0.1:{port}"] if port else [])


class TestRemoved:
    def test_nothing_is_left(self, host: LabHost) -> None:
        assert_gone(host, "redis", "/etc/redis/labyard.conf", host.value("redis_socket"))
