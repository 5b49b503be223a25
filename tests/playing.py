# -*- coding: utf-8 -*-
"""Players of client.py, and servers that follow a script, for the tests of the client."""
from __future__ import unicode_literals

import errno
import io
import json
import select
import signal
import socket
import subprocess
import sys

import pexpect
from conftest import CLIENT, PATIENCE, WAITING, player_environment, query, wait_for

from constants import HOST

# Prompts on a terminal, as patterns.
NICKNAME = r"Nickname( \[[^\r\n]*\])?: "
OPTION = r"[^\r\n]* \d+> "
BUY = r"What would you like to buy\? \(or back\) "
SELL = r"What would you like to sell\? \(or back\) "
KEY = r"Key \(not shown; Enter goes back\): "
QUESTIONS = {"buy": BUY, "sell": SELL}

NEW_ACCOUNT = "This is a new account. \"logout\" goes back to the nickname; Ctrl-D leaves."


# --- players ------------------------------------------------------------------------------------

class Player(pexpect.spawn):
    """client.py on a terminal without echo, so that it shows only what the client wrote."""

    def __init__(self, port=None, *arguments, **variables):
        command = variables.pop("shell", []) + [sys.executable, CLIENT]
        command += (["--port", "%d" % port] if port else []) + list(arguments)
        self.recording = io.StringIO()
        super(Player, self).__init__(command[0], command[1:], timeout=PATIENCE, encoding="utf-8",
                                     echo=False, env=player_environment(**variables))
        self.logfile_read = self.recording
        self.delaybeforesend = None
        self.ptyproc.delayafterclose = 0

    def read_until(self, prompt):
        """Return the lines shown before a prompt.

        The waiting notice is left out: how often it appears depends on the machine.
        """
        self.expect(prompt)
        return [line for line in self.before.splitlines() if line != WAITING]

    def enter(self, line, prompt):
        """Type a line; return the lines shown before the next prompt."""
        self.sendline(line)
        return self.read_until(prompt)

    def has_shown_more(self):
        return bool(self.buffer or select.select([self.child_fd], [], [], 0)[0])

    def interrupt(self):
        """Type Ctrl-C once the client sleeps.

        A signal just before a blocking call would be handled only after it; see signal(7).
        """
        wait_for(lambda: sleeps_or_ended(self.pid), "the client to sleep")
        self.sendintr()

    def finish(self):
        """Wait until the client has ended by itself; return its exit status."""
        self.expect(pexpect.EOF)
        self.wait()
        return self.exitstatus

    def end(self):
        self.kill(signal.SIGKILL)
        self.wait()
        self.close()


def sleeps_or_ended(pid):
    """Return whether a child sleeps, or has ended and was not waited for; see proc(5)."""
    with open("/proc/%d/stat" % pid) as stat:
        return stat.read().rpartition(")")[2].split()[0] in "SZ"


def run(port, lines, *arguments, **variables):
    """Run client.py in pipes; return (exit status, standard output, standard error)."""
    python = variables.pop("python", sys.executable)
    end = variables.pop("end", "\n")
    arguments = (["--port", "%d" % port] if port else []) + list(arguments)
    process = start_in_pipes([python, CLIENT] + arguments, **variables)
    data = b"\n".join(line if isinstance(line, bytes) else line.encode("utf-8") for line in lines)
    try:
        process.stdin.write(data + end.encode("ascii") if lines else b"")
        process.stdin.close()
        out, err = read_output(process)
    finally:
        end_process(process)
    return process.returncode, out, err


def start_in_pipes(command, **variables):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=player_environment(**variables))


def shell(port, *arguments, **options):
    """Start client.py with standard files redirected, in pipes."""
    command = ["sh", "-c", 'exec "$@" ' + options["redirection"], "sh", sys.executable, CLIENT]
    return start_in_pipes(command + ["--port", "%d" % port] + list(arguments))


def read_output(process):
    """Wait until a process has ended; return what it wrote."""
    wait_for(lambda: process.poll() is not None, "the client to end")
    return process.stdout.read().decode("utf-8"), process.stderr.read().decode("utf-8")


def end_process(process):
    if process.poll() is None:
        process.kill()
    process.wait()
    for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
        try:
            pipe.close()
        except EnvironmentError:        # buffered bytes have no reader any more
            pass


def in_order(text, *fragments):
    """Return True if the text has the fragments in this order; fail with a message if not."""
    begin = 0
    for fragment in fragments:
        begin = text.find(fragment, begin)
        assert begin >= 0, "%r is missing, or not in its place, in:\n%s" % (fragment, text)
        begin += len(fragment)
    return True


def stored_account(program, nickname):
    """Return (credits, items) of an account in the database file."""
    row, = query(program.database, "SELECT credits, items FROM account WHERE nickname = ?",
                 nickname)
    return row


# --- servers ------------------------------------------------------------------------------------

CATALOG = [{"name": "Potion", "price": 25}, {"name": "Sword", "price": 200}]
ACCOUNT = {"nickname": "bob", "credits": 4321, "items": ["Sword"]}
RESULTS = {
    "login": {"account": ACCOUNT, "created": False, "catalog": CATALOG},
    "ping": "pong",
    "buy": {"account": dict(ACCOUNT, credits=4296, items=["Sword", "Potion"])},
    "sell": {"account": dict(ACCOUNT, credits=4521, items=[])},
    "logout": True,
    "protect": True,
}


class Script(object):
    """A server whose every step is called by the test, with one connection at a time."""

    def __init__(self, host=HOST):
        self.listener = socket.socket()
        self.listener.bind((host, 0))
        self.listener.listen(8)
        self.listener.settimeout(PATIENCE)
        self.port = self.listener.getsockname()[1]
        self.sock = self.reader = self.last = None
        self.methods = []           # methods of all requests read so far

    def has_caller(self):
        return bool(select.select([self.listener], [], [], 0)[0])

    def accept(self):
        self.hang_up()
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(PATIENCE)
        self.reader = self.sock.makefile("rb")

    def request(self):
        """Return the next request, or None when the client has closed the connection."""
        try:
            line = self.reader.readline()
        except socket.error as error:           # the client closed before it had read everything
            assert error.errno == errno.ECONNRESET
            return None
        if not line:
            return None
        self.last = json.loads(line.decode("ascii"))
        self.methods.append(self.last["method"])
        return self.last

    def send(self, data):
        self.sock.sendall(data)

    def answer(self, **members):
        """Answer the last request."""
        reply = dict({"jsonrpc": "2.0", "id": self.last["id"]}, **members)
        self.send(json.dumps(reply).encode("ascii") + b"\n")

    def serve(self, *methods):
        """Read these requests and answer each."""
        for method in methods:
            assert self.request()["method"] == method
            self.answer(result=RESULTS[method])

    def admit(self, player):
        """Let a player log in; return the lines shown."""
        player.sendline("bob")
        self.accept()
        self.serve("login")
        return player.read_until(OPTION)

    def hang_up(self):
        if self.sock:
            self.reader.close()
            self.sock.close()

    def close(self):
        self.hang_up()
        self.listener.close()
