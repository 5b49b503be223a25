# -*- coding: utf-8 -*-
"""End programs so that coverage.py can write what they ran: a plugin of pytest for `make coverage`.

A fixture ends its programs with SIGKILL, which loses what was measured. Here they get a SIGTERM
first. A test that kills a program itself still kills it.
"""
from __future__ import unicode_literals

import os
import signal
import subprocess
import time

import pexpect
import pytest

STOP_SECONDS = 3        # for a server that has clients; it stops within 2

kill_process, kill_player = subprocess.Popen.kill, pexpect.spawn.kill


def stop(pid, has_ended):
    """Send SIGTERM, and wait for the end."""
    os.kill(pid, signal.SIGTERM)
    deadline = time.time() + STOP_SECONDS
    while not has_ended() and time.time() < deadline:
        time.sleep(0.005)


def stop_process(process):
    if process.poll() is None:
        stop(process.pid, lambda: process.poll() is not None)
        kill_process(process)


def stop_player(player, number):
    if number == signal.SIGKILL and player.isalive():
        stop(player.pid, lambda: not player.isalive())
    kill_player(player, number)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown():
    subprocess.Popen.kill, pexpect.spawn.kill = stop_process, stop_player
    yield
    subprocess.Popen.kill, pexpect.spawn.kill = kill_process, kill_player
