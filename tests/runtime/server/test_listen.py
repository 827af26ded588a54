"""Sockets to listen on, and what is in their way."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

import pytest

from graphopt.errors import MachineError, UsageError
from graphopt.runtime.server import listen
from graphopt.runtime.server.listen import allow_files, listen_at, listen_on, remove, url_of


def test_a_free_port_is_found_and_named() -> None:
    (one,) = listen_on("127.0.0.1", 0)
    with one:
        one.listen()
        assert url_of(one) == f"http://127.0.0.1:{one.getsockname()[1]}"
        with socket.create_connection(one.getsockname(), timeout=5):
            pass


def test_every_address_of_a_name_has_the_same_port() -> None:
    sockets = listen_on("localhost", 0)
    assert len({one.getsockname()[1] for one in sockets}) == 1
    for one in sockets:
        one.close()


def test_an_address_of_ipv6_is_a_url_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        family = socket.AF_INET6

        def getsockname(self) -> tuple[str, int, int, int]:
            return ("::1", 80, 0, 0)

    assert url_of(Fake()) == "http://[::1]:80"  # type: ignore[arg-type]


def test_a_port_in_use_is_named() -> None:
    (one,) = listen_on("127.0.0.1", 0)
    with one:
        one.listen()
        with pytest.raises(MachineError, match="in use") as caught:
            listen_on("127.0.0.1", one.getsockname()[1])
        assert str(one.getsockname()[1]) in str(caught.value)


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "\udc80"])
def test_an_unknown_host_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="host is unknown"):
        listen_on(host, 0)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(MachineError, match="cannot be listened on"):
        listen_on("192.0.2.1", 0)


def test_a_stale_unix_socket_is_taken_away_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with listen_at(path):  # dies without a listen, and leaves its file
        pass
    assert path.is_socket()
    with listen_at(path) as one:
        one.listen()
        assert url_of(one) == f"unix:{path}"
        with pytest.raises(MachineError, match="listens there already"):
            listen_at(path)
        made = path.lstat()
        remove(path, made)
        assert not path.exists()
        remove(path, made)


def test_a_socket_that_another_server_made_since_stays(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with listen_at(path):
        made = path.lstat()
        path.rename(tmp_path / "aside")
        with listen_at(path):
            remove(path, made)
            assert path.is_socket()


def test_a_file_is_not_taken_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep")
    with pytest.raises(UsageError, match="no socket"):
        listen_at(path)
    assert path.read_text() == "keep"
    for impossible in (tmp_path / "no" / "folder.sock", tmp_path / ("x" * 200)):
        with pytest.raises(UsageError, match="no socket can be made"):
            listen_at(impossible)


def test_as_many_files_as_the_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (100, 1000)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.update(now=pair))
    assert allow_files(20) == 20
    assert limits["now"] == (100, 1000)
    assert allow_files(200) == 200
    assert limits["now"] == (200 + listen.OTHER_FILES, 1000)
    assert allow_files(5000) == 1000 - listen.OTHER_FILES
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert allow_files(5000) == 5000
    limits["now"] = (100, resource.RLIM_INFINITY)
    assert allow_files(5000) == 5000
