# -*- coding: utf-8 -*-
"""Connecting to PostgreSQL: the URL, its hosts, the settings of a session, waiting, pg_dump."""
from __future__ import unicode_literals

import contextlib
import errno
import io
import os
import re
import select
import signal
import socket
import subprocess
import sys

import peewee

from constants import (COMMAND_BUSY_SECONDS, CONNECT_SECONDS, KEEPALIVE_IDLE_SECONDS,
                       KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES, TCP_USER_TIMEOUT,
                       USER_TIMEOUT_SECONDS)
from storage import CannotBackUp, CannotOpen, describe
from text import Text, escape


APPLICATION_NAME = "lavka"      # of a session, unless the URL has another one


class Connector(object):
    """Connects to the database of a URL, on the first of its hosts where a commit is durable.

    `name` is the URL without its password, `engine` the database system connected to last. Raises
    CannotOpen where the URL or the driver is of no use.
    """

    # The settings of each session, but for those that this PostgreSQL is too old for. Only locks
    # have a timeout: one for statements could end a commit's wait for a replica, with success
    # reported. The TCP settings let it notice that a server vanished, and free its locks.
    SETTINGS = [
        ("statement_timeout", "0"), ("transaction_timeout", "0"), ("idle_session_timeout", "0"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("tcp_keepalives_idle", "%d" % KEEPALIVE_IDLE_SECONDS),
        ("tcp_keepalives_interval", "%d" % KEEPALIVE_INTERVAL_SECONDS),
        ("tcp_keepalives_count", "%d" % KEEPALIVE_PROBES),
        ("tcp_user_timeout", "%d" % (1000 * USER_TIMEOUT_SECONDS))]
    # The keepalive of our end, as parameters of libpq.
    KEEPALIVE = {"keepalives_idle": KEEPALIVE_IDLE_SECONDS,
                 "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
                 "keepalives_count": KEEPALIVE_PROBES}

    def __init__(self, url):
        try:
            import psycopg2
        except ImportError:
            raise CannotOpen("PostgreSQL needs a driver: pip install -r "
                             "requirements-postgresql.txt")
        self.driver = psycopg2
        self.parameters, self.hosts, self.name = _read_url(url, psycopg2)
        self.busy_seconds = COMMAND_BUSY_SECONDS    # to wait for a lock
        self.answer_seconds = None                  # to wait for an answer; None is for ever
        self.engine = None

    def connect(self):
        """Return a connected peewee Database. Raises CannotOpen.

        Hosts are tried one by one, since libpq has no time limit for each on a non-blocking
        connection.
        """
        reasons = []
        for host in self.hosts:
            try:
                return self._connect_to(host)
            except CannotOpen as error:
                reasons.append("%s" % error)
        raise CannotOpen("; ".join(reasons))

    def _connect_to(self, host):
        parameters = dict(self.KEEPALIVE, **self.parameters)
        parameters.update(host)
        parameters.setdefault("fallback_application_name", APPLICATION_NAME)
        database = _Database(parameters.pop("dbname"), encoding="utf8", **parameters)
        self.driver.extensions.set_wait_callback(self._wait)
        try:
            database.connect()
            self._check_session(database)
            self._configure(database)
            self._check(database)
        except peewee.PeeweeException as error:
            database.close()
            raise CannotOpen("cannot open the database %s: %s" % (self.name, describe(error)))
        except CannotOpen:
            database.close()
            raise
        return database

    def _check_session(self, database):
        """Check that the session is this connection's own. Raises CannotOpen.

        A pooler lends sessions to its clients, and one to several clients at once, transaction by
        transaction: locks and settings would be everybody's. It does not tell the process id of
        PostgreSQL's (protocol-message-formats.html, BackendKeyData). Checked before any setting is
        made, which would stay in the pool.
        """
        pid, = database.execute_sql("SELECT pg_backend_pid()").fetchone()
        if pid != database.connection().get_backend_pid():
            raise CannotOpen("the database %s is behind a pooler, such as PgBouncer: give the "
                             "address of PostgreSQL itself" % self.name)

    def _configure(self, database):
        """Apply the settings to a new session."""
        extensions = self.driver.extensions
        if sys.version_info[0] < 3:         # 2.7: or numbers would be long, not int
            bigint = extensions.new_type(
                (20,), str("BIGINT"), lambda digits, cursor: digits and int(digits))
            extensions.register_type(bigint, database.connection())
        lock_timeout = ("lock_timeout", "%d" % (1000 * self.busy_seconds))
        database.execute_sql(
            "SELECT set_config(name, value, false) FROM pg_settings JOIN "
            "unnest(%s::text[], %s::text[]) AS wanted (name, value) USING (name)",
            columns(self.SETTINGS + [lock_timeout], 2))
        # A commit waits for the write-ahead log, and for the replicas of synchronous_standby_names;
        # only remote_apply waits for more.
        database.execute_sql("SELECT set_config('synchronous_commit', 'on', false) "
                             "WHERE current_setting('synchronous_commit') != 'remote_apply'")

    def _check(self, database):
        """Check that this is a database to keep accounts in. Raises CannotOpen."""
        version, encoding, is_replica, is_durable = database.execute_sql(
            "SELECT current_setting('server_version'), current_setting('server_encoding'), "
            "pg_is_in_recovery(), current_setting('fsync') = 'on' "
            "AND current_setting('full_page_writes') = 'on' "
            "AND current_setting('synchronous_commit') IN ('on', 'remote_apply')").fetchone()
        for is_wrong, problem in [
                (database.connection().server_version < 110000,
                 "needs PostgreSQL 11 or a later one"),
                (is_replica, "is a replica, which cannot be written to"),
                (encoding != "UTF8", "has the encoding %s, it has to be UTF8" % encoding),
                (not is_durable, "cannot be made durable: fsync, full_page_writes and "
                                 "synchronous_commit have to be on")]:
            if is_wrong:
                raise CannotOpen("the database %s %s" % (self.name, problem))
        self.engine = "PostgreSQL " + version.split()[0]

    def check_alone(self, database):
        """Check that no server runs on the database. Raises CannotOpen.

        A server has the name, or players, whose nicknames are advisory locks. Whoever waits for
        such a lock is another program that checks this.
        """
        others, = database.execute_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid != pg_backend_pid() AND wait_event IS DISTINCT FROM 'advisory' "
            "AND (application_name = %s OR pid IN "
            "(SELECT pid FROM pg_locks WHERE locktype = 'advisory'))",
            (APPLICATION_NAME,)).fetchone()
        if others:
            raise CannotOpen("%d of Lavka's programs have the database %s open: stop all of its "
                             "servers first" % (others, self.name))

    def _wait(self, connection):
        """Wait until the driver can go on: its wait callback.

        libpq's own wait delays signals, and has no limit.
        """
        is_connecting = connection.status == self.driver.extensions.STATUS_SETUP
        seconds = CONNECT_SECONDS if is_connecting else self.answer_seconds
        poller = select.poll()                  # select has no descriptors over 1023
        events = {self.driver.extensions.POLL_READ: select.POLLIN,
                  self.driver.extensions.POLL_WRITE: select.POLLOUT}
        while True:
            state = connection.poll()
            if state == self.driver.extensions.POLL_OK:
                return
            poller.register(connection.fileno(), events[state])
            try:
                is_ready = poller.poll(seconds and 1000 * seconds)
            except select.error as error:       # 2.7: after a signal
                if error.args[0] != errno.EINTR:
                    raise
            else:
                if not is_ready:                # the driver then ends the connection
                    raise self.driver.OperationalError("no answer for %s s" % seconds)

    def copy_in(self, database, sql, data):
        """Execute a COPY FROM STDIN with these bytes as its input. Raises a PeeweeException.

        libpq waits meanwhile: the driver has no COPY with a wait callback.
        """
        self.driver.extensions.set_wait_callback(None)
        try:
            with _signals_end_the_process():
                database.cursor().copy_expert(sql, io.BytesIO(data))
        except self.driver.Error as error:
            raise peewee.OperationalError(error, *error.args)
        finally:
            self.driver.extensions.set_wait_callback(self._wait)

    def dump(self, path):
        """Have pg_dump write a file, for pg_restore. Raises CannotBackUp."""
        dsn, password = self._dsn()
        variables = dict(os.environ)
        if password is not None:                # everybody could read it in a command line
            variables["PGPASSWORD"] = password
        command = ["pg_dump", "--format=custom", "--no-password", "--file", path, "--dbname", dsn]
        try:
            process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE)
        except EnvironmentError:
            raise CannotBackUp("a backup of PostgreSQL needs pg_dump, which is not here")
        try:
            output = process.communicate()[1].decode("utf-8", "replace").strip()
        except KeyboardInterrupt:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            raise CannotBackUp(escape(output.split("\n")[0]) or "pg_dump failed")

    def _dsn(self):
        """Return (the connection string of libpq, with all hosts and no password; the password)."""
        parameters = dict(self.parameters)
        for name in ("host", "port"):
            values = [host.get(name, "") for host in self.hosts]
            if any(values):
                parameters[name] = ",".join(values)
        password = parameters.pop("password", None)
        return self.driver.extensions.make_dsn(**parameters), password


@contextlib.contextmanager
def _signals_end_the_process():
    """A context in which a signal that would interrupt the command ends the process at once.

    Its handler would run only when libpq has an answer, and inside the driver, which prints a
    traceback and goes on. PostgreSQL undoes the transaction.
    """
    handlers = [(number, signal.getsignal(number))
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    for number, handler in handlers:
        if handler != signal.SIG_IGN:           # nohup(1)
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)


def duplicate_socket(connection):
    """Return a duplicate of the driver's socket, for the loop to watch.

    The driver closes its own descriptor when it likes, and the loop would then watch whatever gets
    the same number next.
    """
    duplicate = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    try:    # set it here, unless the URL did: only libpq 12 and later has a parameter for it
        if not duplicate.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT):
            duplicate.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT,
                                 1000 * USER_TIMEOUT_SECONDS)
    except socket.error:                # a Unix socket
        pass
    return duplicate


class _Database(peewee.PostgresqlDatabase):
    """peewee's, with the errors of the driver that it passes on turned into its own."""

    def execute_sql(self, *arguments, **options):
        try:
            return super(_Database, self).execute_sql(*arguments, **options)
        except self.connection().Error as error:        # 2.7: QueryCanceled
            raise peewee.OperationalError(error, *error.args)


def is_lock_timeout(error):
    """Return whether a statement has failed because it waited too long for a lock.

    55P03 is lock_not_available (postgresql.org/docs/current/errcodes-appendix.html).
    """
    return getattr(getattr(error, "orig", None), "pgcode", None) == "55P03"


# A user or password with @ / ? # in it, and a later @ or #, make a URL ambiguous: libpq might take
# a part of the password for a host, which is shown. Such a URL is refused.
_POSTGRESQL_URL = re.compile(r"postgres(ql)?://([^@/?#]*@)?[^@#]*$")


def _read_url(url, driver):
    """Return (the parameters of a connection, a dict; those of each host, a list of dicts; the URL
    without its password). Raises CannotOpen."""
    if not re.match("postgres(ql)?:", url):
        raise CannotOpen("a database is a file, or postgresql://user:password@host/name")
    parameters = {}
    if _POSTGRESQL_URL.match(url):
        try:
            parameters = driver.extensions.parse_dsn(url)
            "".join(parameters.values())        # 2.7: refuse non-ASCII here; the driver fails on it
        except (driver.Error, UnicodeError):    # its text may have a part of the password
            pass
    user, name = parameters.get("user", ""), parameters.get("dbname")
    hosts = parameters.pop("host", "").split(",")
    ports = parameters.pop("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if not name or len(ports) != len(hosts) or not re.match("[0-9]*$", "".join(ports)):
        raise CannotOpen("this is no URL of a database: it has to be "
                         "postgresql://user:password@host:port/name, with %XX for each special "
                         "character in a name or the password")
    places = [dict([("host", host)] * bool(host) + [("port", port)] * bool(port))
              for host, port in zip(hosts, ports)]
    return parameters, places, escape("postgresql://%s%s/%s" % (
        user and user + "@",
        ",".join(host + (port and ":" + port) for host, port in zip(hosts, ports)), name))


# --- arrays, as parameters of statements ------------------------------------------------------

def columns(rows, number):
    """Return the columns of the rows as arrays, of which `unnest` makes rows again."""
    return [array([row[column] for row in rows]) for column in range(number)]


def array(values):
    """Return an array in PostgreSQL's notation; the driver takes five times as long for one."""
    return "{%s}" % ",".join([
        '"%s"' % value.replace("\\", "\\\\").replace('"', '\\"') if type(value) is Text
        else "%d" % value for value in values])


def prepare(name, statement):
    """Return the SQL that prepares a statement, and the SQL that executes it with as many
    parameters as it has. PostgreSQL parses and plans it once a session then."""
    parts = statement.split("%s")
    numbered = parts[0] + "".join(["$%d%s" % (number, part)
                                   for number, part in enumerate(parts[1:], 1)])
    return ("PREPARE %s AS %s" % (name, numbered),
            "EXECUTE %s (%s)" % (name, ", ".join(["%s"] * (len(parts) - 1))))
