"""No network unless --online: names and addresses of other machines are refused, this machine's are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import ROOT

PROGRAM = """
import socket, sys
from contextlib import closing
from qreg_yolo.cli.process import prepare_ultralytics

def outcome(call):
    try:
        call()
    except ConnectionError as error:
        return "refused" if "--online" in str(error) else repr(error)
    except OSError as error:
        return type(error).__name__
    return "works"

def connect(address):
    with closing(socket.socket()) as plain:
        plain.settimeout(0.01)
        plain.connect(address)

def send(address):
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as plain:
        plain.sendto(b"", address)

def loopback():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()

def unix():
    left, right = socket.socketpair()
    left.close(), right.close()

prepare_ultralytics(online=sys.argv[1] == "online")
prepare_ultralytics(online=sys.argv[1] == "online")
for call in (
    lambda: connect(("192.0.2.1", 80)), lambda: send(("192.0.2.1", 9)), lambda: socket.getaddrinfo("example.com", 80),
    lambda: socket.gethostbyname("example.com"), lambda: socket.gethostbyaddr("192.0.2.1"),
):
    print(outcome(call) if sys.argv[1] == "offline" or "connect" in call.__code__.co_names else "not tried")
print(outcome(loopback), outcome(unix))
"""
COUNTING = """
import os, sys
from qreg_yolo.cli import main, process

attempts = []
original = process._is_local
process._is_local = lambda host: original(host) or bool(attempts.append(host))
try:
    main(sys.argv[1:])
finally:
    print("attempts:", attempts, file=sys.stderr)
"""


def run(program: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("YOLO_")},
            "PYTHONPATH": str(ROOT),
            **environment,
        },
    )


def test_other_machines_are_refused_and_this_one_is_not() -> None:
    result = run(PROGRAM, "offline")
    assert result.stdout.split() == ["refused"] * 5 + ["works", "works"], result.stderr


def test_with_online_nothing_is_refused() -> None:
    first, *rest = run(PROGRAM, "online").stdout.splitlines()
    assert first != "refused"
    assert rest[-1] == "works works"


def test_training_tries_one_connection_for_a_font_which_is_refused(hyp: Path, data: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.mkdir()
    arguments = ["train", "--hyp", hyp, "--data", data, "--threads", 1, f"project={tmp_path}"]
    result = run(COUNTING, *arguments, YOLO_CONFIG_DIR=str(settings))
    assert result.returncode == 0, result.stderr
    assert "attempts: ['github.com']" in result.stderr  # Ultralytics' check_font, which heeds no setting


def test_the_count_of_attempts_can_fail(tmp_path: Path) -> None:
    program = COUNTING.replace("main(sys.argv[1:])", "process.prepare_ultralytics(online=False)\n"
                               "    import socket\n    socket.getaddrinfo('example.com', 80)")  # fmt: skip
    result = run(program)
    assert "attempts: ['example.com']" in result.stderr
    assert "No network without --online" in result.stderr
