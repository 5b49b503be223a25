# -*- coding: utf-8 -*-
"""The commands of docs/operations.md and README.md, typed in a shell as they are written.

With a typo they lose and start nothing. Every block is run here, or has a reason in BY_HAND.
"""
from __future__ import unicode_literals

import glob
import io
import os
import pwd
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import (ROOT, Peer, audit, environment, on_postgresql, open_account, query,
                      wait_for)

import db


def read(*path):
    with io.open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


MANUAL = "docs/operations.md"
README = "README.md"


def blocks(page):
    """Return the blocks of commands and of SQL of a page, {(page, heading, number under it): text}.

    Those of other languages, `text` above all, are nothing to type.
    """
    found, heading = {}, None
    for title, language, text in re.findall(
            r"^#+ ([^\n]*)$|^```(\w*)\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL):
        if title:
            heading, number = title, 0
        elif language in ("", "sql"):
            found[page, heading, number] = text
            number += 1
    return found


BLOCKS = blocks(MANUAL)
BLOCKS.update(blocks(README))
run_here = set()            # keys of the blocks that are typed by a test of this file


def block(heading, number=0, page=MANUAL):
    """Return a block of commands, to be typed by a test."""
    run_here.add((page, heading, number))
    return BLOCKS[page, heading, number]


SERVERS = "Several servers on one PostgreSQL"
BY_HAND = {                 # typed on a Debian 12 before a release, or run elsewhere
    (MANUAL, "Install", 1): "it changes the settings of whoever runs the tests",
    (MANUAL, "Upgrade", 3): "tests/test_keys.py runs it, on both databases",
    (MANUAL, "Back up", 1): "it needs systemd; the program that it starts is tested here",
    (MANUAL, "Prometheus", 0): "it needs systemd; the exporter has tests of its own",
    (MANUAL, "On a network", 0): "it names a host; tests/test_network.py plays through the proxy",
    (MANUAL, SERVERS, 0): "it needs PostgreSQL's own user",
    (MANUAL, SERVERS, 1): "it needs a PostgreSQL with that user, and systemd",
    (MANUAL, SERVERS, 3): "it needs systemd; the program that it starts is tested here",
    (MANUAL, SERVERS, 4): "it needs PostgreSQL's own user",
    (MANUAL, SERVERS, 5): "it needs the PostgreSQL of Debian; tests/test_faults.py stops another",
    (MANUAL, "From SQLite to PostgreSQL", 0): "it needs both of the units",
    (README, "Two commands", 0): "make test would run this test",
    (README, "Two commands", 1): "it installs from the network",
    (README, "How fast", 0): "it takes half an hour; tests/test_bench.py runs its parts",
}


def test_every_block_of_commands_is_run():
    """A new block has a test here, or a reason in BY_HAND."""
    assert sorted(BLOCKS) == sorted(run_here | set(BY_HAND))
    assert not run_here & set(BY_HAND)


class Machine(object):
    """A directory in place of the machine's root, and scripts in place of root's commands."""

    def __init__(self, directory):
        self.state = os.path.join(directory, "var/lib/lavka")
        self.backups = os.path.join(directory, "backup")
        self.code = os.path.join(directory, "opt/lavka")
        self.bin = os.path.join(directory, "bin")
        self.started = os.path.join(directory, "started")
        self.properties = os.path.join(directory, "properties")
        for path in (self.state, self.backups, self.bin, self.properties):
            os.makedirs(path)
        for name in ("apt", "useradd", "journalctl"):
            self.script(name, "")
        for name in ("runuser", "setpriv"):
            self.script(name, "shift 3; exec \"$@\"")
        # Other users than this one may not exist.
        self.script("install", "for word; do shift; case $word in -o | -g | lavka) ;; "
                    "*) set -- \"$@\" \"$word\"; esac; done; exec %s \"$@\"" % which("install"))
        for name in ("lavka-admin", "lavka-backup"):
            self.script(name, self.here(read("deploy", name)))
        unit = self.here(read("deploy", "lavka.service"))
        environment, prepare = [" ".join(re.findall("^%s=(.*)$" % name, unit, re.MULTILINE))
                                for name in ("Environment", "ExecStartPre")]
        self.script("systemctl", """
            if [ $1 = show ]; then
                cat "%s/${4%%.service}.${2#--property=}" 2>&-
                exit 0
            fi
            echo "$1" >>%s
            case $1 in *start | enable) %s %s; esac""" % (
                self.properties, self.started, environment, prepare))
        self.unit("lavka", Environment=environment)

    def unit(self, name, **properties):
        """Have systemd know a unit."""
        properties.setdefault("User", pwd.getpwuid(os.getuid()).pw_name)
        properties.setdefault("WorkingDirectory", self.state)
        for key, value in properties.items():
            self.write(os.path.join(self.properties, "%s.%s" % (name, key)), value + "\n")

    def write(self, path, text):
        with io.open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def script(self, name, text):
        path = os.path.join(self.bin, name)
        self.write(path, "#!/bin/sh\n%s\n" % text)
        os.chmod(path, 0o755)

    def here(self, text):
        """Return commands with the paths of this directory."""
        for path, ours in [("/opt/lavka/.venv/bin/python /opt/lavka/", sys.executable + " " + ROOT
                            + "/"), ("/var/lib/lavka", self.state), ("/backup", self.backups),
                           ("/opt/lavka", self.code), ("/etc/systemd/system", self.bin),
                           ("/usr/local/sbin", self.bin)]:
            text = re.sub(r"(?<![\w.])%s\b" % path, ours, text)
        return text

    def type(self, commands, cwd=None, **variables):
        """Type commands in a shell; return (exit status, output)."""
        process = subprocess.Popen(
            ["sh", "-c", self.here(commands)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=cwd or self.state,
            env=environment(PATH=self.bin + os.pathsep + os.environ["PATH"], **variables))
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
            return [name for name, in query(path, "SELECT nickname FROM account")]
        return []


def which(program):
    return next(os.path.join(path, program) for path in os.environ["PATH"].split(os.pathsep)
                if os.access(os.path.join(path, program), os.X_OK))


def shop_of(nickname, path):
    db.create_tables(path)
    open_account(path, nickname, 1)
    query(path, "INSERT INTO trade (account_id, time, what, item, price, credits, note) "
          "VALUES (1, 1, 'opening', '', 0, 1, '')")


def steps(commands):
    """Return the numbers of a block's lines, for a typo in each."""
    return range(len(commands.splitlines()))


def with_typo(commands, number):
    """Return the commands with a letter too many at the beginning of a line."""
    lines = commands.splitlines()
    lines[number] = "x" + lines[number]
    return "\n".join(lines)


@pytest.fixture
def machine(directory):
    return Machine(directory)


@pytest.fixture
def shop(machine):
    """Return a machine with a database of "new" and a backup of "old"."""
    shop_of("new", os.path.join(machine.state, "lavka.db"))
    shop_of("old", os.path.join(machine.backups, "lavka.db"))
    return machine


# --- lavka-admin --------------------------------------------------------------------------------

def test_admin_has_the_database_of_the_unit_wherever_it_is_typed(shop, tmpdir):
    elsewhere = str(tmpdir.mkdir("elsewhere"))
    status, output = shop.type("lavka-admin show new", elsewhere, LAVKA_DATABASE="other.db")
    assert status == 0 and output.startswith('nickname  "new"\n')
    assert shop.type("lavka-admin --database /backup/lavka.db show old")[0] == 0
    assert shop.type("lavka-admin backup copy.db", elsewhere)[0] == 0       # the unit's directory
    assert shop.accounts("copy.db") == ["new"] and not os.listdir(elsewhere)


def test_admin_has_the_variables_of_the_units_files(shop):
    path = os.path.join(shop.bin, "one")
    shop.unit("lavka@one", Environment="LAVKA_DATABASE=none.db",
              EnvironmentFiles="%s (ignore_errors=no)\n%s/none (ignore_errors=yes)" % (
                  path, shop.bin))
    for line in ("LAVKA_DATABASE=%s", "LAVKA_DATABASE='%s'", " LAVKA_DATABASE=%s\t ",
                 "#LAVKA_DATABASE=x\n\nA=$(x) `x`\nLAVKA_DATABASE=\"%s\""):
        shop.write(path, line % os.path.join(shop.backups, "lavka.db"))     # without a last \n
        status, output = shop.type("LAVKA_UNIT=lavka@one lavka-admin show old")
        assert status == 0, output
    os.remove(path)
    status, output = shop.type("LAVKA_UNIT=lavka@one lavka-admin show old")
    assert status != 0 and path in output and not os.path.exists(shop.state + "/none.db")


def test_admin_takes_the_units_variables_as_systemctl_quotes_them(shop):
    odd = os.path.join(shop.state, "it's \"a $(date) \\ `b`.db")
    shop_of("odd", odd)
    quoted = re.sub(r'(["$\\`])', r"\\\1", odd)
    shop.unit("lavka", Environment='A=b "LAVKA_DATABASE=%s"' % quoted)
    status, output = shop.type("lavka-admin show odd")
    assert status == 0, output


def test_admin_has_the_home_of_the_unit_and_leaves_files_to_it_alone(shop):
    shop.script("setpriv", "echo $HOME $(umask) $*")
    status, output = shop.type("lavka-admin show new", HOME="/elsewhere")
    user = pwd.getpwuid(os.getuid())
    assert output.startswith("%s 0077 --reuid=%s --regid=%d --init-groups " % (
        user.pw_dir, user.pw_name, user.pw_gid))


def test_admin_refuses_a_unit_that_is_not_there(shop):
    status, output = shop.type("LAVKA_UNIT=lavka@nine lavka-admin show new")
    assert status == 1 and output == "lavka-admin: there is no unit lavka@nine with a user\n"


# --- back up ------------------------------------------------------------------------------------

BACK_UP = block("Back up")


def test_backup_as_written(shop):
    status, output = shop.type(BACK_UP)
    assert status == 0, output
    assert len(os.listdir(shop.backups)) == 2


@pytest.fixture
def nightly(shop):
    """Return a function that does what the timer starts: (exit status, output, nightly backups).

    Of earlier nights there are a backup that is too old, an unfinished one, and one of the last day
    that is kept; `mine.db` is not the timer's.
    """
    keep_days, = re.findall("^Environment=KEEP_DAYS=(.*)$", read("deploy", "lavka-backup.service"),
                            re.MULTILINE)
    for name, days in [("nightly-1.db", 0.1), ("nightly-2.db.x.unfinished", 0.1),
                       ("nightly-3.db", -0.1), ("mine.db", 100)]:
        path = os.path.join(shop.backups, name)
        shutil.copy(os.path.join(shop.backups, "lavka.db"), path)
        then = time.time() - (int(keep_days) + days) * 86400
        os.utime(path, (then, then))

    def run():
        status, output = shop.type("lavka-backup", KEEP_DAYS=keep_days)
        assert os.path.exists(os.path.join(shop.backups, "mine.db"))
        return status, output, sorted(name[:9] for name in os.listdir(shop.backups)
                                      if name.startswith("nightly-"))

    return run


def test_nightly_backup_is_verified_and_old_ones_go(nightly):
    status, output, kept = nightly()
    assert status == 0 and output.endswith("accounts: 1, rows of the ledger: 1, problems: 0\n")
    assert kept == ["nightly-2", "nightly-3"]           # the new one, and that of the last day


def test_nightly_backup_that_cannot_be_made_has_status_1(shop, nightly):
    os.remove(os.path.join(shop.state, "lavka.db"))
    status, output, kept = nightly()
    assert status == 1 and output.endswith("lavka-backup: no backup was made\n")
    assert kept == ["nightly-1", "nightly-2", "nightly-3"]


def test_nightly_backup_with_a_problem_has_status_2_and_no_old_one_goes(shop, nightly):
    query(os.path.join(shop.state, "lavka.db"), "UPDATE account SET credits = 7")
    status, output, kept = nightly()
    assert status == 2 and "it has 7 credits" in output and "old backups are kept" in output
    assert kept == ["nightly-1", "nightly-2", "nightly-2", "nightly-3"]


def test_the_units_of_the_backup_are_what_systemd_understands(directory):
    if not any(os.access(os.path.join(path, "systemd-analyze"), os.X_OK)
               for path in os.environ["PATH"].split(os.pathsep)):
        pytest.skip("systemd is not installed")
    paths = [os.path.join(directory, "lavka-backup." + kind) for kind in ("service", "timer")]
    for path in paths:
        text = read("deploy", os.path.basename(path))
        with io.open(path, "w", encoding="utf-8") as file:      # of a machine where it is installed
            file.write(text.replace("/usr/local/sbin", os.path.join(ROOT, "deploy")))
    process = subprocess.Popen(["systemd-analyze", "verify", "--man=no"] + paths,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.communicate()[0].decode("utf-8")
    assert (process.returncode, said) == (0, "")


# --- restore ------------------------------------------------------------------------------------

RESTORE = block("Restore").replace("FILE", "lavka.db")


def test_restore_as_written(shop):
    status, output = shop.type(RESTORE)
    assert status == 0, output
    assert output.startswith("accounts: 1, rows of the ledger: 1, problems: 0\n")
    assert shop.services() == ["stop", "start"]
    assert shop.accounts("lavka.db") == ["old"] and shop.accounts("aside/lavka.db") == ["new"]


@pytest.mark.parametrize("number", steps(RESTORE))
def test_typo_in_restore_loses_nothing_and_starts_nothing(shop, number):
    status, output = shop.type(with_typo(RESTORE, number))
    assert status != 0 and output
    assert "start" not in shop.services()
    assert "new" in shop.accounts("lavka.db") + shop.accounts("aside/lavka.db")
    if not shop.accounts("lavka.db"):
        status, output = shop.type("systemctl start lavka")         # as a reboot does
        assert status != 0 and "there is no database" in output
        assert not os.path.exists(os.path.join(shop.state, "lavka.db"))


def test_restore_refuses_a_name_that_is_no_file_and_a_damaged_backup(shop):
    status, output = shop.type(RESTORE.replace("lavka.db &&\nlavka", "lavka.bd &&\nlavka"))
    assert status != 0 and output.startswith("there is no database ")
    query(os.path.join(shop.backups, "lavka.db"), "UPDATE account SET credits = 7")
    status, output = shop.type(RESTORE)
    assert status != 0 and "it has 7 credits" in output
    assert shop.services() == [] and shop.accounts("lavka.db") == ["new"]


OPEN_FILE = block("If a file was moved or removed")


def test_removed_file_that_the_server_has_open_is_saved(machine, start):
    program = start(directory=machine.state)
    Peer(program.port, "bob").close()
    audit(program.database)
    os.remove(program.database)
    machine.unit("lavka", MainPID="%d" % program.process.pid)
    find, save = OPEN_FILE.rsplit("\n", 2)[:2]
    status, output = machine.type(find)
    assert status == 0 and output.count("\n") == 2, output
    number = re.search(r"(\d+) ->", output).group(1)
    status, output = machine.type(find + "\n" + save.replace("NUMBER", number))
    assert status == 0, output
    saved = os.path.join(machine.backups, "saved.db")
    assert query(saved, "SELECT nickname FROM account") in ([], [("bob",)])
    assert os.stat(saved).st_mode & 0o777 == 0o600


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
    for name in ("lavka-admin", "lavka-backup"):
        shutil.copy(os.path.join(machine.bin, name), os.path.join(checkout, "deploy"))
        os.remove(os.path.join(machine.bin, name))
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
ADMIN_FOR_UPGRADE = block("Upgrade", 1)
GO_BACK = block("Upgrade", 2)
MERGE = UPGRADE.splitlines().index("git merge --ff-only @{upstream} &&")


@pytest.fixture
def installed(published):
    """Return (a machine with the version "one", a checkout of the version "two")."""
    machine, checkout = published
    status, output = machine.type(INSTALL.replace("URL", checkout), cwd=checkout)
    assert status == 0, output
    commit(checkout, "two")
    return machine, checkout


@needs_git
def test_install_creates_the_database_and_starts(installed):
    machine, _ = installed
    assert machine.services() == ["daemon-reload", "enable"]
    assert machine.accounts("lavka.db") == []
    assert os.path.exists(os.path.join(machine.state, "lavka.db"))
    for name in ("lavka.service", "lavka-backup.timer", "lavka-admin", "lavka-backup"):
        assert os.path.exists(os.path.join(machine.bin, name))


@needs_git
@pytest.mark.parametrize("number", list(steps(UPGRADE)) + ["pip"])
def test_upgrade_starts_nothing_half(installed, number):
    """A step that fails leaves the server as it was, and those before the merge the code."""
    machine, _ = installed
    before = git(machine.code, "rev-parse", "HEAD")
    failing = number == "pip"
    status, output = machine.type(
        "export PIP_FAILS=1\n" + UPGRADE if failing else with_typo(UPGRADE, number))
    assert status != 0, output
    assert "restart" not in machine.services()
    if failing or number <= MERGE:
        assert git(machine.code, "rev-parse", "HEAD") == before


@needs_git
def test_upgrade_and_the_way_back_as_written(installed):
    machine, checkout = installed
    before = git(machine.code, "rev-parse", "HEAD")
    status, output = machine.type(UPGRADE)
    assert status == 0, output
    assert machine.services() == ["daemon-reload", "enable", "daemon-reload", "restart"]
    with io.open(machine.installed) as file:
        assert file.read().split() == ["needed-by-one", "needed-by-two"]
    assert git(machine.code, "rev-parse", "HEAD") == git(checkout, "rev-parse", "HEAD")
    backup, = os.listdir(machine.backups)
    version = re.match("from-([0-9a-f]+)-", backup).group(1)
    status, output = machine.type(GO_BACK.replace("COMMIT", version))
    assert status == 0, output
    assert git(machine.code, "rev-parse", "HEAD") == before
    assert machine.services()[4:] == ["daemon-reload", "restart"]
    os.remove(os.path.join(machine.backups, backup))    # made in this second, perhaps
    status, output = machine.type(UPGRADE)              # and forth again
    assert status == 0, output


@needs_git
def test_upgrade_from_a_version_without_admin_gets_it(installed):
    machine, _ = installed
    os.remove(os.path.join(machine.bin, "lavka-admin"))
    status, output = machine.type(ADMIN_FOR_UPGRADE + UPGRADE)
    assert status == 0, output


# --- several servers ----------------------------------------------------------------------------

DRAIN = block("Behind HAProxy")
OPEN_TRANSACTIONS = block(SERVERS, 2)


@pytest.mark.parametrize("leave_after, minutes", [(0, 0), (3, 3), (1000, 30)])
def test_drain_ends_when_the_players_have_left_and_after_half_an_hour(shop, leave_after,
                                                                      minutes):
    told, slept = os.path.join(shop.bin, "told"), os.path.join(shop.bin, "slept")
    # With a name alone, socat would make a file of it where HAProxy does not run.
    shop.script("socat", "[ \"$*\" = '- UNIX-CONNECT:/run/haproxy/lavka.sock' ] && cat >>%s" % told)
    shop.script("sleep", "echo >>%s" % slept)
    shop.script("lavka-admin", "[ \"$LAVKA_UNIT $1\" = 'lavka@one players' ] || exit 1\n"
                   "[ $(cat %s 2>&- | wc -l) -ge %d ] || echo bob" % (slept, leave_after))
    status, output = shop.type(DRAIN)
    assert status == 0, output
    assert (len(read(slept)) if minutes else 0) == minutes
    assert read(told).splitlines() == ["set server servers/one state drain",
                                       "set server servers/one state ready"]
    assert shop.services() == ["restart"]


@on_postgresql
def test_open_transactions_are_shown(database, outside, outside_of):
    left_open = outside_of(database)
    left_open.execute("BEGIN")
    left_open.execute("SELECT 1")
    shown = outside.execute(OPEN_TRANSACTIONS.rstrip(";\n")).fetchall()
    assert ("idle in transaction", "SELECT 1") in [row[2:] for row in shown]


# --- README.md ----------------------------------------------------------------------------------

SCRIPT = block("In a script", page=README)
COUNTER = block("Behind the counter", page=README)


def test_commands_of_the_readme(program, machine):
    """As in a checkout with a virtual environment, of which `python` is."""
    def type_here(commands):
        return machine.type(commands.replace(".venv/bin/python", "python"), ROOT, **variables)

    variables = {"LAVKA_PORT": program.port, "LAVKA_DATABASE": program.database}
    machine.script("python", "exec %s \"$@\"" % sys.executable)
    open_account(program.database, "carol", 100)
    query(program.database, "INSERT INTO trade (account_id, time, what, item, price, credits, note)"
          " VALUES (1, 1, 'opening', '', 0, 100, '')")
    status, output = type_here(SCRIPT)
    assert (status, output) == (0, "Congratulations! You bought the potion.\nYou have 75 credits.\n"
                                   "{\"nickname\": \"carol\", \"credits\": 75, "
                                   "\"items\": [\"potion\"]}\n")
    for line in COUNTER.splitlines():
        player = Peer(program.port, "carol")            # whom a command may log out
        query(program.database, "INSERT OR IGNORE INTO account_key VALUES (1, '%s')" % ("0" * 64))
        status, output = type_here(re.sub(
            "FILE|DATABASE", lambda match: os.path.join(machine.backups, match.group() + ".db"),
            line.replace("bob", "carol")))
        assert status == 0, output
        player.close()
        wait_for(lambda: program.stats()["players"] == 0, "the end of the login")
        query(program.database, "DELETE FROM account_key")
