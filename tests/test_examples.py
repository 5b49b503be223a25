# -*- coding: utf-8 -*-
"""What docs/protocol.md shows to the authors of bots, and examples/: run, and checked by mypy."""
from __future__ import unicode_literals

import io
import itertools
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading

import pytest
from conftest import PATIENCE, ROOT, Peer, environment, is_installed, open_account, query
from playing import CATALOG, RESULTS, read_output

from constants import HOST

BOT, RECIPE = 0, 1              # the page's blocks of Python
needs_node = pytest.mark.skipif(not is_installed("node"), reason="there is no Node.js here")
python3_only = pytest.mark.skipif(sys.version_info[0] < 3, reason="it has annotations")


def blocks(language):
    """Return the page's blocks of a language."""
    with io.open(os.path.join(ROOT, "docs", "protocol.md"), encoding="utf-8") as page:
        return re.findall("^```%s\n(.*?)^```$" % language, page.read(), re.MULTILINE | re.DOTALL)


def run(command, **options):
    """Run a command; return (exit status, standard output, standard error)."""
    cwd = options.pop("cwd", None)
    process = subprocess.Popen(command, cwd=cwd, env=environment(**options),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    return process.returncode, out.decode("utf-8"), err.decode("utf-8")


# --- the commands of the page -------------------------------------------------------------------

class Home(object):
    """A home directory with the checkout in ~/lavka, and with python3 and mypy."""

    def __init__(self, directory):
        self.path = directory
        os.symlink(ROOT, os.path.join(directory, "lavka"))
        for name, arguments in [("python3", ""), ("mypy", "-m mypy")]:
            self.write("bin/" + name, '#!/bin/sh\nexec %s %s "$@"\n' % (sys.executable, arguments))
            os.chmod(os.path.join(directory, "bin", name), 0o755)

    def write(self, name, text):
        path = os.path.join(self.path, name)
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path))
        with io.open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def type(self, command):
        """Type a command in the directory ~/bots; return what `run` returns."""
        return run(["sh", "-c", command], cwd=os.path.join(self.path, "bots"), HOME=self.path,
                   PATH=os.path.join(self.path, "bin") + os.pathsep + os.environ["PATH"],
                   MYPY_CACHE_DIR=os.path.join(self.path, "cache"))


@pytest.fixture
def home(directory):
    return Home(directory)


PLAIN, PACKAGE, MYPY = range(3)         # the page's blocks of commands


def test_bot_runs_with_the_checkout_elsewhere(program, home):
    open_account(program.database, "buyer", 240, "sword")
    home.write("bots/bot.py", at_port(blocks("python")[BOT], program.port))
    assert home.type(blocks("sh")[PLAIN]) == (0, "horse: not_enough_credits\n"
        "armor: not_enough_credits\nsword: item_already_owned\nbought bow\n", "")
    assert program.free("buyer")


def test_bot_in_a_package_has_modules_named_as_lavka_has(program, home):
    open_account(program.database, "buyer", 60)
    bot = "from __future__ import absolute_import, print_function\n" \
        "from mybot import client, constants\nprint(client.NAME, constants.NAME)\n"
    home.write("bots/mybot/__main__.py", bot + at_port(blocks("python")[BOT], program.port))
    home.write("bots/mybot/__init__.py", "")
    for name in ("client", "constants", "log", "text"):
        home.write("bots/mybot/%s.py" % name, "NAME = 'my %s'\n" % name)
    status, out, err = home.type(blocks("sh")[PACKAGE])
    assert (status, err) == (0, "")
    assert out.startswith("my client my constants\nhorse: ") and out.endswith("bought dagger\n")


def at_port(code, port):
    """Return the page's code with another port."""
    assert code.count("port=7777") == 1
    return code.replace("port=7777", "port=%d" % port)


# --- the stub -----------------------------------------------------------------------------------

def test_stub_gives_bots_their_types(home):
    pytest.importorskip("mypy")
    home.write("bots/bot.py", blocks("python")[BOT])
    home.write("bots/recipe.py", blocks("python")[RECIPE])
    home.write("bots/wrong.py", "from client import Client\nClient().buy(1)['credit']\n")
    shutil.copy(os.path.join(ROOT, "examples/bot.py"), os.path.join(home.path, "bots/example.py"))
    command = blocks("sh")[MYPY].strip() + " recipe.py example.py wrong.py"     # one run for all
    status, out, err = home.type(command)
    errors = [line for line in out.splitlines() if ": error: " in line]
    assert (status, err) == (1, "")
    assert [line.split(":")[:2] for line in errors] == [["wrong.py", "2"]] * 2, out


def test_stub_is_true(home):
    pytest.importorskip("mypy")
    status, out, _ = run([sys.executable, "-m", "mypy.stubtest", "client"], cwd=home.path,
                         PYTHONPATH=ROOT, MYPYPATH=ROOT)
    assert status == 0, out


# --- exactly once -------------------------------------------------------------------------------

FAULTS = ["request lost", "both cut", "reply lost", "half a reply", "client vanished"]


class Proxy(object):
    """Passes lines between one client at a time and a server.

    It does the faults, one for each request; after the last of them it works.
    """

    def __init__(self, port):
        self.server_port = port
        self.faults = []                # the next one last
        self.done = set()               # (method, fault)
        self.vanished = []              # connections to the server whose client has vanished
        self.listener = socket.socket()
        self.listener.bind((HOST, 0))
        self.listener.listen(8)
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while True:
            client, _ = self.listener.accept()
            requests = client.makefile("rb")
            server = Peer(self.server_port)
            first = requests.readline()
            self.pass_lines(first, requests, client, server)
            requests.close()
            client.close()
            if server not in self.vanished:
                server.close()
            if not first:               # of `close`
                return

    def pass_lines(self, line, requests, client, server):
        while line:
            fault = self.faults.pop() if self.faults else None
            if fault:
                self.done.add((json.loads(line.decode("ascii"))["method"], fault))
            if fault == "request lost":
                return
            server.send(line)
            if fault == "both cut":
                return
            reply = server.reader.readline()
            if fault == "client vanished":
                self.vanished.append(server)
            if fault in ("client vanished", "reply lost"):
                return
            if fault == "half a reply":
                client.sendall(reply[:len(reply) // 2])
                return
            client.sendall(reply)
            if b"nickname_in_use" in reply:
                self.end_vanished()     # as the server does when it notices
            line = requests.readline()

    def end_vanished(self):
        while self.vanished:
            self.vanished.pop().close()

    def close(self):
        socket.create_connection((HOST, self.port)).close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.end_vanished()
        self.listener.close()


@pytest.fixture
def proxy(program):
    proxy = Proxy(program.port)
    yield proxy
    proxy.close()


def purchases(program, nickname):
    """Return the items that the ledger has bought for an account."""
    return [item for item, in query(
        program.database, "SELECT item FROM trade JOIN account ON account.id = account_id "
        "WHERE nickname = ? AND what = 'purchase' ORDER BY trade.id", nickname)]


def test_recipe_buys_exactly_once_whatever_is_lost(program, proxy):
    recipe = at_port(blocks("python")[RECIPE], proxy.port)
    assert recipe.count('"buyer"') == 1 and recipe.count("time.sleep(1)") == 1
    recipe = recipe.replace("time.sleep(1)", "time.sleep(0.01)")
    choices = random.Random(1)
    for number in range(40):
        nickname = "buyer %d" % number
        open_account(program.database, nickname, 200)
        proxy.faults = []
        for fault in choices.sample(FAULTS, len(FAULTS)):       # at a login, or at the `buy` behind
            proxy.faults += [fault] + [None] * choices.randint(0, 1)
        names = {}
        exec(recipe.replace('"buyer"', '"%s"' % nickname), names)
        assert names["account"] == {"nickname": nickname, "credits": 0, "items": ["sword"]}
        assert purchases(program, nickname) == ["sword"]
    assert proxy.done == set(itertools.product(["login", "buy"], FAULTS))


# --- examples/ ----------------------------------------------------------------------------------

@python3_only
@pytest.mark.parametrize("fault", FAULTS)
def test_example_bot_buys_exactly_once(program, proxy, directory, fault):
    open_account(program.database, "bob", 500, "torch,horse")
    proxy.faults = [fault, None, None]          # with the first purchase
    status, out, err = run(
        [sys.executable, os.path.join(ROOT, "examples", "bot.py"), HOST, "%d" % proxy.port, "bob"],
        cwd=directory)
    assert (status, out) == (0, "bought armor, 150 credits are left\n")
    assert err.startswith("The server is gone.\n") and "Traceback" not in err
    assert purchases(program, "bob") == ["armor"]


@python3_only
@pytest.mark.parametrize("arguments", [[], [HOST, "x", "bob"], [HOST, "0", "bob"], ["", "1", "b"]])
def test_example_bot_tells_errors_in_a_line(arguments):
    status, out, err = run([sys.executable, os.path.join(ROOT, "examples", "bot.py")] + arguments)
    assert (status, out) == (1, "") and len(err.splitlines()) == 1


LAVKA_JS = os.path.join(ROOT, "examples", "lavka.js")


@needs_node
def test_javascript_client_buys(program):
    nickname = "Боб👩\u200d🚀"
    open_account(program.database, nickname, 535, "torch,horse")
    command = ["node", LAVKA_JS, HOST, "%d" % program.port, nickname]
    for told in ("bought armor, 185 credits are left", "bought bow, 35 credits are left",
                 "bought potion, 10 credits are left", "there is nothing to buy"):
        assert run(command) == (0, told + "\n", "")
    assert purchases(program, nickname) == ["armor", "bow", "potion"]


def start_code(port, code):
    """Start code with a Client, `shop`, and `tell`, which prints the reason of an error."""
    begin = """
        const { Client } = require(process.argv[1]);
        const shop = new Client("127.0.0.1", %d, 500);
        const tell = (error) => console.log(error.reason);
        """ % port
    return subprocess.Popen(["node", "-e", begin + code, LAVKA_JS], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=environment())


@needs_node
def test_javascript_calls_overlap_and_tell_their_errors(program):
    process = start_code(program.port, """
        Promise.all([shop.call("ping"), shop.call("buy", { item: "torch" }).catch(tell)])
          .then(([pong]) => console.log(pong))
          .then(() => shop.close())
          .then(() => shop.call("ping")).catch(tell);
        """)
    assert read_output(process) == ("not_logged_in\npong\nclosed\n", "")


@needs_node
def test_javascript_client_waits_for_a_limited_time(script):
    process = start_code(script.port, "shop.call('ping').catch(tell);")
    script.accept()
    assert read_output(process) == ("gone\n", "")


@needs_node
def test_javascript_call_after_server_full_tells_of_it(script):
    process = start_code(
        script.port, "shop.socket.on('close', () => shop.call('ping').catch(tell));")
    script.accept()
    server_full(script)
    assert read_output(process) == ("server_full\n", "")


@needs_node
def test_javascript_client_says_when_nothing_was_sent(no_server):
    assert run(["node", LAVKA_JS, HOST, "%d" % no_server, "bob"]) == (
        1, "", "There is no server at 127.0.0.1:%d.\n" % no_server)


def start_javascript(script):
    process = subprocess.Popen(["node", LAVKA_JS, HOST, "%d" % script.port, "bob"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    script.accept()
    return process


@needs_node
def test_javascript_client_reads_a_reply_in_many_pieces(script):
    process = start_javascript(script)
    assert script.request()["method"] == "login"
    script.answer(result=dict(RESULTS["login"], catalog=CATALOG * 10000))
    script.serve("buy")
    script.hang_up()
    assert read_output(process) == ("bought Potion, 4296 credits are left\n", "")


def hang_up(script):
    script.hang_up()


def half_a_line(script):
    script.send(b'{"jsonrpc": "2.0", "resu')
    script.hang_up()


def garbage(script):
    script.send(b"\xff\x00{[\n")


def another_id(script):
    script.answer(id=99, result=None)


def server_full(script):
    script.send(b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32001, "message": '
                b'"The server is full.", "data": {"reason": "server_full"}}}\n')
    script.hang_up()


MAYBE = "The connection is lost. What was asked last may or may not have happened.\n"


@needs_node
@pytest.mark.parametrize("answer, told", [
    (hang_up, MAYBE), (half_a_line, MAYBE), (garbage, MAYBE), (another_id, MAYBE),
    (server_full, "The server is full.\n")])
def test_javascript_client_says_what_may_have_happened(script, answer, told):
    process = start_javascript(script)
    script.serve("login")
    assert script.request()["method"] == "buy"
    answer(script)
    assert read_output(process) == ("", told)
    assert process.returncode == 1
