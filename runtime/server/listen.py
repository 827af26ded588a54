"""Sockets to listen on: bound before anything is loaded, so that a port in use is told at once."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from contextlib import suppress
from pathlib import Path

from graphopt.errors import MachineError, UsageError

# What a process opens besides its connections: the log, the engine's socket, files of the artifact.
OTHER_FILES = 64
_IN_USE = {errno.EADDRINUSE: "the port is in use", errno.EACCES: "the port is not ours to take"}


def listen_on(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of ``host``, all with the same port.

    Args:
        host: a name or an address.
        port: 0 for one that is free.

    Raises:
        UsageError: the host is unknown.
        MachineError: the port is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            "the host is unknown", got=host, expected=f"an address: {error}"
        ) from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if sockets:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        one = socket.socket(family, kind, protocol)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
        except OSError as error:
            one.close()
            if sockets and error.errno == errno.EADDRNOTAVAIL:
                continue  # localhost has a name for IPv6, and the machine no such address
            for other in sockets:
                other.close()
            raise MachineError(
                _IN_USE.get(error.errno or 0, "the address cannot be listened on"),
                where=f"{host}:{port}",
                got=error.strerror,
                next="choose another one: --host, --port; 0 is any that is free",
            ) from error
        sockets.append(one)
    return sockets


def listen_at(path: Path) -> socket.socket:
    """A Unix socket at ``path``; one that a dead server left there is taken away.

    Raises:
        UsageError: something else is there, or the path cannot be one of a socket.
        MachineError: a server listens there.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError("this is a file, and no socket", where=str(path))
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise MachineError("a server listens there already", where=str(path))
    one = socket.socket(socket.AF_UNIX)
    try:
        one.bind(str(path))
    except OSError as error:
        one.close()
        raise UsageError(
            "no socket can be made there", where=str(path), got=error.strerror or error
        ) from error
    return one


def url_of(one: socket.socket) -> str:
    """How to reach what listens on a socket."""
    address = one.getsockname()
    if one.family == socket.AF_UNIX:
        return f"unix:{address}"
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def remove(path: Path, one: os.stat_result) -> None:
    """Take the Unix socket at ``path`` away, if it still is the one that was made."""
    with suppress(OSError):
        now = path.lstat()
        if (now.st_dev, now.st_ino) == (one.st_dev, one.st_ino):
            path.unlink()


def allow_files(count: int) -> int:
    """Let this process open as many files as it may, at most ``count`` and some; how many it may.

    Connections are files, and shells usually allow 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return count if soft == resource.RLIM_INFINITY else min(count, soft - OTHER_FILES)
