# -*- coding: utf-8 -*-
"""The commands of docs/operations.md, typed in a shell: with a typo they lose and start nothing."""
from __future__ import unicode_literals

import contextlib
import glob
import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest
from conftest import ROOT, environment

import db


def read(*path):
    with io.open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def block(title):
    """Return the first block of commands under a heading of the page."""
    text = read("docs", "operations.md").split("\n## %s\n" % title)[1]
    return re.search(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL).group(1)


ALIAS = re.search("^alias .*\n", read("docs", "operations.md"), re.MULTILINE).group()
UNIT = re.search("^ExecStartPre=(.*)\n", read("deploy", "lavka.service"), re.MULTILINE).group(1)


class Machine(object):
    """A directory in place of the machine's root, and scripts in place of root's commands."""

    def __init__(self, directory):
        self.state = os.path.join(directory, "var/lib/lavka")
        self.backups = os.path.join(directory, "backup")
        self.code = os.path.join(directory, "opt/lavka")
        self.bin = os.path.join(directory, "bin")
        self.started = os.path.join(directory, "started")
        for path in (self.state, self.backups, self.bin):
            os.makedirs(path)
        self.script("sudo", "shift 2; exec \"$@\"")
        self.script("useradd", "")
        self.script("journalctl", "")
        self.script("systemctl", "echo \"$1\" >>%s\ncase $1 in *start | enable) %s; esac" % (
            self.started, self.here("LAVKA_DATABASE=/var/lib/lavka/lavka.db " + UNIT)))
        # Other users than this one may not exist.
        self.script("install", "for word; do shift; case $word in -o | -g | lavka) ;; "
                    "*) set -- \"$@\" \"$word\"; esac; done; exec %s \"$@\"" % which("install"))

    def script(self, name, text):
        path = os.path.join(self.bin, name)
        with io.open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n%s\n" % text)
        os.chmod(path, 0o755)

    def here(self, text):
        """Return commands with the paths of this directory."""
        for path, ours in [("/opt/lavka/.venv/bin/python /opt/lavka/", sys.executable + " " + ROOT
                            + "/"), ("/var/lib/lavka", self.state), ("/backup", self.backups),
                           ("/opt/lavka", self.code), ("/etc/systemd/system", self.bin)]:
            text = text.replace(path, ours)
        return text

    def type(self, commands, cwd=None):
        """Type commands in a shell; return (exit status, output)."""
        process = subprocess.Popen(
            ["sh", "-c", "eval \"$1\"\neval \"$2\"", "sh", self.here(ALIAS), self.here(commands)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd or self.state,
            env=environment(PATH=self.bin + os.pathsep + os.environ["PATH"]))
        output = process.communicate()[0].decode("utf-8")
        return process.returncode, output

    def services(self):
        """Return what systemctl was told."""
        if not os.path.exists(self.started):
            return []
        with io.open(self.started) as file:
            return file.read().split()

    def accounts(self, pattern):
        """Return the nicknames in the one file that the pattern names; [] if there is none."""
        for path in glob.glob(os.path.join(self.state, pattern)):
            with contextlib.closing(sqlite3.connect(path)) as connection:
                return [name for name, in connection.execute("SELECT nickname FROM account")]
        return []


def which(program):
    return next(os.path.join(path, program) for path in os.environ["PATH"].split(os.pathsep)
                if os.access(os.path.join(path, program), os.X_OK))


def shop_of(nickname, path):
    db.create_tables(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO account (nickname, credits, items) VALUES (?, 1, '')",
                           (nickname,))
        connection.execute("INSERT INTO trade (account_id, time, what, item, price, credits, note) "
                           "VALUES (1, 1, 'opening', '', 0, 1, '')")
        connection.commit()


def steps(title):
    """Return the numbers of a block's lines, for a typo in each."""
    return range(len(block(title).splitlines()))


def with_typo(commands, number):
    """Return the commands with a letter too many at the beginning of a line."""
    lines = commands.splitlines()
    lines[number] = "x" + lines[number]
    return "\n".join(lines)


@pytest.fixture
def machine(directory):
    return Machine(directory)


# --- restore ------------------------------------------------------------------------------------

@pytest.fixture
def damaged(machine):
    """Return a machine with a database of "new" and a backup of "old"."""
    shop_of("new", os.path.join(machine.state, "lavka.db"))
    shop_of("old", os.path.join(machine.backups, "lavka.db"))
    return machine


RESTORE = block("Restore").replace("FILE", "lavka.db")


def test_restore_as_written(damaged):
    status, output = damaged.type(RESTORE)
    assert status == 0, output
    assert output.startswith("accounts: 1, rows of the ledger: 1, problems: 0\n")
    assert damaged.services() == ["stop", "start"]
    assert damaged.accounts("lavka.db") == ["old"] and damaged.accounts("aside/lavka.db") == ["new"]


@pytest.mark.parametrize("number", steps("Restore"))
def test_typo_in_restore_loses_nothing_and_starts_nothing(damaged, number):
    status, output = damaged.type(with_typo(RESTORE, number))
    assert status != 0 and output
    assert "start" not in damaged.services()
    assert "new" in damaged.accounts("lavka.db") + damaged.accounts("aside/lavka.db")
    if not damaged.accounts("lavka.db"):
        status, output = damaged.type("systemctl start lavka")      # as a reboot does
        assert status != 0 and "there is no database" in output
        assert not os.path.exists(os.path.join(damaged.state, "lavka.db"))


def test_restore_refuses_a_name_that_is_no_file_and_a_damaged_backup(damaged):
    status, output = damaged.type(block("Restore").replace("FILE", "lavka.bd"))
    assert status != 0 and output.startswith("there is no database ")
    with contextlib.closing(sqlite3.connect(os.path.join(damaged.backups, "lavka.db"))) as backup:
        backup.execute("UPDATE account SET credits = 7")
        backup.commit()
    status, output = damaged.type(RESTORE)
    assert status != 0 and "it has 7 credits" in output
    assert damaged.services() == [] and damaged.accounts("lavka.db") == ["new"]


# --- install and upgrade ------------------------------------------------------------------------

needs_git = pytest.mark.skipif(not any(
    os.access(os.path.join(path, "git"), os.X_OK)
    for path in os.environ["PATH"].split(os.pathsep)), reason="there is no git here")


def git(directory, *arguments):
    return subprocess.check_output(
        ["git", "-c", "user.name=x", "-c", "user.email=x"] + list(arguments), cwd=directory,
        env=environment(GIT_CONFIG_NOSYSTEM="1", HOME=directory), stderr=subprocess.STDOUT)


def commit(checkout, version):
    with io.open(os.path.join(checkout, "requirements.txt"), "w") as file:
        file.write("needed-by-%s\n" % version)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", version)


@pytest.fixture
def published(machine, tmpdir):
    """Return (a machine, a checkout of which /opt/lavka is to be a clone).

    Its Python notes what pip installs; an environment variable makes pip fail.
    """
    checkout = str(tmpdir.mkdir("checkout"))
    git(checkout, "init", "--quiet", ".")
    shutil.copytree(os.path.join(ROOT, "deploy"), os.path.join(checkout, "deploy"))
    shutil.copy(os.path.join(ROOT, ".gitignore"), checkout)
    commit(checkout, "one")
    machine.installed = os.path.join(machine.bin, "installed")
    machine.script("python3", "mkdir -p .venv/bin && cp %s/python .venv/bin/" % machine.bin)
    machine.script("python", "if [ $1 = -m ]; then shift 3; cat $2 >>%s; exit $PIP_FAILS; fi\n"
                   "program=$1; shift; exec %s %s/$program \"$@\"" % (
                       machine.installed, sys.executable, ROOT))
    return machine, checkout


INSTALL = block("Install")
UPGRADE = block("Upgrade")


@needs_git
def test_install_creates_the_database_and_starts(published):
    machine, checkout = published
    status, output = machine.type(INSTALL, cwd=checkout)
    assert status == 0, output
    assert machine.services() == ["daemon-reload", "enable"]
    assert machine.accounts("lavka.db") == []
    assert os.path.exists(os.path.join(machine.state, "lavka.db"))


@needs_git
@pytest.mark.parametrize("number", list(steps("Upgrade")) + ["pip"])
def test_upgrade_starts_nothing_half(published, number):
    """A step that fails leaves the code as it was; the last one is the restart itself."""
    machine, checkout = published
    assert machine.type(INSTALL, cwd=checkout)[0] == 0
    before = git(machine.code, "rev-parse", "HEAD")
    commit(checkout, "two")
    failing = number == "pip"
    status, output = machine.type(
        "export PIP_FAILS=1\n" + UPGRADE if failing else with_typo(UPGRADE, number))
    assert status != 0, output
    assert machine.services() == ["daemon-reload", "enable"]
    if failing or number < len(steps("Upgrade")) - 1:
        assert git(machine.code, "rev-parse", "HEAD") == before


@needs_git
def test_upgrade_as_written(published):
    machine, checkout = published
    assert machine.type(INSTALL, cwd=checkout)[0] == 0
    commit(checkout, "two")
    status, output = machine.type(UPGRADE)
    assert status == 0, output
    assert machine.services() == ["daemon-reload", "enable", "restart"]
    with io.open(machine.installed) as file:
        assert file.read().split() == ["needed-by-one", "needed-by-two"]
    assert git(machine.code, "rev-parse", "HEAD") == git(checkout, "rev-parse", "HEAD")
    assert len(glob.glob(os.path.join(machine.state, "before-*.db"))) == 1
