# -*- coding: utf-8 -*-
"""A PostgreSQL cluster in a temporary directory, for the tests and the benchmark."""
from __future__ import unicode_literals

import atexit
import contextlib
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time

PATIENCE = 60       # seconds for a cluster to start, with the recovery after a crash


def find_binaries():
    """Return the directory of initdb and postgres; None where PostgreSQL is not installed."""
    places = os.environ["PATH"].split(os.pathsep) + sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    for place in places:
        if all(os.access(os.path.join(place, name), os.X_OK) for name in ("initdb", "postgres")):
            return os.path.dirname(os.path.realpath(os.path.join(place, "postgres")))
    return None


BINARIES = find_binaries()


class Cluster(object):
    """A running cluster, or a replica of the cluster `primary`.

    `settings` are lines of postgresql.conf; the directory is made in `parent`. The cluster ends
    with the process, or by `close`.
    """
    PASSWORD = "p/a@s's w%rd"               # with characters that a URL has to quote
    QUOTED = "p%2Fa%40s's%20w%25rd"         # the same in a URL

    def __init__(self, port, settings=(), parent=None, primary=None):
        self.port = port
        self.settings = ["listen_addresses=127.0.0.1", "max_connections=60",
                         "max_locks_per_transaction=400", "log_min_messages=fatal"] + list(settings)
        self.directory = tempfile.mkdtemp("lavka", dir=parent)
        self.data = os.path.join(self.directory, "data")
        self.numbers = itertools.count()
        self.user = None                    # entry of the password database to run as
        if os.getuid() == 0:                # PostgreSQL refuses to run as root
            names = {entry.pw_name for entry in pwd.getpwall()}
            self.user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.directory, self.user.pw_uid, self.user.pw_gid)
        with open(os.devnull, "w") as nowhere:
            self.process = self.run(self.copy(primary) if primary else self.initdb(), nowhere)
        atexit.register(self.close)         # after Ctrl-C, too
        assert self.process.wait() == 0, "initdb or pg_basebackup has failed"
        self.start()
        if primary is None:
            self.template = self.create_database()
            import db
            db.create_tables(self.url(self.template))

    def initdb(self):
        """Return the command that makes a new cluster."""
        password = os.path.join(self.directory, "password")
        with open(password, "w") as file:
            file.write(str(self.PASSWORD) + "\n")
        os.chmod(password, 0o644)
        return ["initdb", "--no-sync", "--encoding=UTF8", "--locale=C", "--username=lavka",
                "--auth=scram-sha-256", "--pwfile=" + password, self.data]

    def copy(self, primary):
        """Return the command that makes a replica."""
        return ["pg_basebackup", "--pgdata", self.data, "--write-recovery-conf", "--no-sync",
                "--checkpoint=fast", "--dbname", primary.url("postgres")]

    def run(self, command, output):
        """Start one of PostgreSQL's programs; return the process."""
        def become_user():
            if self.user is not None:
                os.setgid(self.user.pw_gid)
                os.setuid(self.user.pw_uid)
        return subprocess.Popen([os.path.join(BINARIES, command[0])] + command[1:],
                                stdout=output, stderr=output, cwd=self.directory,
                                close_fds=True, preexec_fn=become_user)

    def start(self):
        """Start the cluster and wait until it answers.

        After a crash it is tried again, until the last processes of the crashed one have ended.
        """
        deadline = time.time() + PATIENCE
        with open(os.path.join(self.directory, "log"), "a") as output:
            while True:
                self.process = self.run(
                    ["postgres", "-D", self.data, "-p", "%d" % self.port, "-k", ""]
                    + [word for setting in self.settings for word in ("-c", setting)], output)
                while self.process.poll() is None:
                    if self.answers():
                        return
                    assert time.time() < deadline, "PostgreSQL does not start"
                    time.sleep(0.02)
                assert time.time() < deadline, "PostgreSQL ends at once"
                time.sleep(0.1)

    def answers(self):
        """Return whether the cluster accepts connections."""
        import psycopg2
        try:
            Outside(self.url("postgres")).close()
            return True
        except psycopg2.Error:
            return False

    def execute(self, sql):
        """Execute a statement in the database `postgres`."""
        with contextlib.closing(Outside(self.url("postgres"))) as connection:
            connection.execute(sql)

    def create_database(self, template="template0"):
        """Create a database and return its name; with `self.template` it has the tables."""
        name = "shop%d" % next(self.numbers)
        self.execute("CREATE DATABASE %s TEMPLATE %s" % (name, template))
        return name

    def url(self, name):
        """Return the URL of a database, with user, password and port."""
        return "postgresql://lavka:%s@127.0.0.1:%d/%s" % (self.QUOTED, self.port, name)

    def kill(self):
        """Send SIGKILL to all processes of the cluster."""
        processes = [self.process.pid]
        for pid in filter(str.isdigit, os.listdir(str("/proc"))):
            try:
                with open("/proc/%s/stat" % pid) as stat:
                    if int(stat.read().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                        processes.append(int(pid))
            except EnvironmentError:        # the process has ended
                pass
        for pid in processes:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.process.wait()

    def close(self):
        """End the cluster at once and remove its directory."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Outside(object):
    """Another program's connection in autocommit, with those methods of sqlite3 that tests use."""

    def __init__(self, url):
        import psycopg2
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True
        psycopg2.extensions.register_type(psycopg2.extensions.UNICODE, self.connection)

    def execute(self, sql, parameters=()):
        cursor = self.connection.cursor()
        cursor.execute(sql.replace("?", "%s"), parameters or None)
        return cursor

    def close(self):
        self.connection.close()
