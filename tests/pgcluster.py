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
MEMORY = "/dev/shm"     # a file system where writing and fsync cost nothing, on Linux
ROOM = 1 << 30      # bytes; several times what a cluster of the tests needs


def find_binaries():
    """Return the directory of initdb and postgres; None where PostgreSQL is not installed."""
    places = os.environ["PATH"].split(os.pathsep) + sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    for place in places:
        if all(os.access(os.path.join(place, name), os.X_OK) for name in ("initdb", "postgres")):
            return os.path.dirname(os.path.realpath(os.path.join(place, "postgres")))
    return None


BINARIES = find_binaries()


def memory():
    """Return a directory in memory with room for a cluster; None where there is none."""
    try:
        room = os.statvfs(MEMORY)
    except OSError:
        return None
    return MEMORY if room.f_bavail * room.f_frsize > ROOM else None


class Cluster(object):
    """A running cluster, or a replica of the cluster `primary`.

    `settings` are lines of postgresql.conf; the directory is made in `parent`, or in memory. The
    cluster ends with the process, or by `close`.
    """
    PASSWORD = "p/a@s's w%rd"               # with characters that a URL has to quote
    QUOTED = "p%2Fa%40s's%20w%25rd"         # the same in a URL
    made = None     # data directory of a new cluster; initdb takes a second, a copy far less

    def __init__(self, port, settings=(), parent=None, primary=None):
        self.port = port
        self.settings = ["listen_addresses=127.0.0.1", "max_connections=60",
                         "max_locks_per_transaction=400", "max_wal_size=64MB",
                         "log_min_messages=fatal"] + list(settings)
        self.numbers = itertools.count()
        self.unused = []                    # names of databases to drop
        self.user = None                    # entry of the password database to run as
        if os.getuid() == 0:                # PostgreSQL refuses to run as root
            names = {entry.pw_name for entry in pwd.getpwall()}
            self.user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        self.directory = self.make_directory(parent)
        self.data = os.path.join(self.directory, "data")
        if primary is None:
            self.prepare(["/bin/cp", "-a", self.new_data(), self.data])
        else:
            self.prepare(self.copy(primary))
        atexit.register(self.close)         # after Ctrl-C, too
        self.start()
        if primary is None:
            self.template = self.create_database()
            import db
            db.create_tables(self.url(self.template))

    def make_directory(self, parent=None):
        """Make a directory that belongs to PostgreSQL and is removed at the end of the process."""
        directory = tempfile.mkdtemp("lavka", dir=parent or memory())
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        if self.user is not None:
            os.chown(directory, self.user.pw_uid, self.user.pw_gid)
        return directory

    def new_data(self):
        """Return the data directory of a new cluster, which initdb makes once in this process."""
        if Cluster.made is None:
            password = os.path.join(self.directory, "password")
            with open(password, "w") as file:
                file.write(str(self.PASSWORD) + "\n")
            os.chmod(password, 0o644)
            made = os.path.join(self.make_directory(), "data")
            self.prepare(["initdb", "--no-sync", "--encoding=UTF8", "--locale=C",
                          "--username=lavka", "--auth=scram-sha-256", "--pwfile=" + password, made])
            Cluster.made = made
        return Cluster.made

    def prepare(self, command):
        """Run a program that has to succeed."""
        with open(os.devnull, "w") as nowhere:
            assert self.run(command, nowhere).wait() == 0, "%s has failed" % command[0]

    def copy(self, primary):
        """Return the command that makes a replica."""
        return ["pg_basebackup", "--pgdata", self.data, "--write-recovery-conf", "--no-sync",
                "--checkpoint=fast", "--dbname", primary.url("postgres")]

    def run(self, command, output):
        """Start a program, one of PostgreSQL's or a path; return the process."""
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
        with contextlib.closing(Outside(self.url("postgres"))) as connection:
            while self.unused:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                                   "WHERE datname = ?", (self.unused[-1],))
                connection.execute("DROP DATABASE IF EXISTS " + self.unused.pop())
            connection.execute("CREATE DATABASE %s TEMPLATE %s" % (name, template))
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
