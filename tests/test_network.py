# -*- coding: utf-8 -*-
"""The real proxy of docs/operations.md, with TLS and a throw-away certificate; the systemd unit."""
from __future__ import unicode_literals

import contextlib
import errno
import io
import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT, Peer, environment, free_port, wait_for
from playing import NICKNAME, OPTION, run

from client import Client, ServerGone
from protocol import RpcError


def has_program(name):
    return any(os.access(os.path.join(path, name), os.X_OK)
               for path in os.environ["PATH"].split(os.pathsep) + ["/usr/sbin"])


def make_certificate(directory, name):
    """A self-signed certificate for a host's name: (the certificate's path, with its key's)."""
    certificate, key, both = [os.path.join(directory, name + end)
                              for end in (".crt", ".key", ".pem")]
    subprocess.check_call(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=" + name, "-addext", "subjectAltName=DNS:" + name, "-keyout", key, "-out",
         certificate], stderr=subprocess.PIPE)
    with open(both, "wb") as file:
        for path in (certificate, key):
            with open(path, "rb") as part:
                file.write(part.read())
    return certificate, both


def configuration(number, **changes):
    """One of HAProxy's configurations in docs/operations.md, with other paths and ports."""
    with io.open(os.path.join(ROOT, "docs", "operations.md"), encoding="utf-8") as page:
        text = re.findall(r"```haproxy\n(.*?)```", page.read(), re.DOTALL)[number]
    for old, new in changes.values():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


CHROOT = "/var/lib/haproxy"


def is_root():
    """Return whether HAProxy can give up root's rights, as the pages have it do."""
    users = [entry.pw_name for entry in pwd.getpwall()]
    return os.getuid() == 0 and "haproxy" in users and os.path.isdir(CHROOT)


class Proxy(object):
    """HAProxy with a configuration."""

    def __init__(self, directory, number, **changes):
        self.port = free_port()
        if not is_root():
            rights = "    user haproxy\n    group haproxy\n    chroot %s\n" % CHROOT
            changes["rights"] = (rights, "")
        path = os.path.join(directory, "haproxy.cfg")
        with io.open(path, "w", encoding="utf-8") as file:
            file.write(configuration(
                number, bind=("bind :7778", "bind 127.0.0.1:%d" % self.port), **changes))
        self.log_path = os.path.join(directory, "haproxy.log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                ["haproxy", "-f", path], stdout=log, stderr=log, close_fds=True,
                env=environment(PATH=os.environ["PATH"] + os.pathsep + "/usr/sbin"))
        wait_for(self.accepts, "HAProxy")

    def accepts(self):
        assert self.process.poll() is None, self.log()
        try:
            Peer(self.port).close()
            return True
        except EnvironmentError:
            return False

    def log(self):
        with io.open(self.log_path, encoding="utf-8") as log:
            return log.read()

    def stop(self):
        self.process.kill()
        self.process.wait()


class TLSProxy(Proxy):
    """HAProxy in front of a server, with TLS."""

    def __init__(self, directory, program, **changes):
        self.certificate, both = make_certificate(directory, "localhost")
        changes.setdefault("limit", ("maxconn 21000", "maxconn 100"))   # any machine's descriptors
        Proxy.__init__(
            self, directory, 0,
            certificate=("/etc/haproxy/lavka.pem", both),
            address=("127.0.0.1:7777", "127.0.0.1:%d" % program.port), **changes)

    def context(self):
        return ssl.create_default_context(cafile=str(self.certificate))

    def client(self, **options):
        return Client("localhost", self.port, tls=self.context(), **options)


@pytest.fixture
def start_proxy(program, directory):
    """Return a function that starts a TLSProxy in front of the program; it is stopped at the end.

    The arguments are changes of the page's text, each (old, new).
    """
    if not has_program("haproxy"):
        pytest.skip("HAProxy is not installed")
    started = []

    def start(**changes):
        started.append(TLSProxy(directory, program, **changes))
        return started[-1]

    yield start
    for proxy in started:
        proxy.stop()


@pytest.fixture
def proxy(start_proxy):
    return start_proxy()


def test_a_player_through_the_proxy(proxy, program):
    with proxy.client() as player:
        assert player.login("bob")["created"]
        assert player.buy("potion")["items"] == ["potion"]
        assert not program.free("bob")
        assert re.search(r'login nickname="bob" peer=127\.0\.0\.1:', program.log())
    wait_for(lambda: program.free("bob"), "the nickname to be free")


def test_the_console_with_tls(proxy, program, start_player):
    player = start_player(proxy.port, "--host", "localhost", "--tls", "--ca", proxy.certificate)
    assert player.enter("bob", OPTION)[0] == "Welcome to Lavka, bob!"
    assert "bob" in player.enter("logout", NICKNAME)[0]
    assert program.free("bob")


def test_key_made_over_tls_is_never_sent_without(script, start_player, directory):
    home = {"XDG_DATA_HOME": os.path.join(directory, "home")}
    certificate, both = make_certificate(directory, "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(str(both))

    def begin_login(*arguments):
        player = start_player(script.port, "--host", "localhost", *arguments, **home)
        player.sendline("bob")
        script.accept()
        if arguments:
            script.sock = context.wrap_socket(script.sock, server_side=True)
            script.reader = script.sock.makefile("rb")
        return player

    player = begin_login("--tls", "--ca", certificate)
    script.serve("login")
    player.read_until(OPTION)
    player.sendline("protect")
    script.serve("ping", "protect")
    key = script.last["params"]["key"]
    player.read_until(OPTION)
    for arguments, params in [(("--tls", "--ca", certificate), {"nickname": "bob", "key": key}),
                              ((), {"nickname": "bob"})]:
        begin_login(*arguments)
        assert script.request()["params"] == params


@pytest.mark.parametrize("host, trusted", [("127.0.0.1", True), ("localhost", False)])
def test_a_server_that_cannot_prove_who_it_is(proxy, program, host, trusted):
    arguments = ["--host", host, "--tls"] + (["--ca", proxy.certificate] if trusted else [])
    status, out, err = run(proxy.port, ["bob"], *arguments)
    assert (status, err) == (0, "")
    assert out.startswith("Nickname:\nTLS with %s:%d failed: " % (host, proxy.port))
    assert out.count("\n") == 2 and "login" not in program.log()


def test_another_hosts_certificate(proxy, directory):
    certificate, _ = make_certificate(directory, "shop.example.org")
    with pytest.raises(ServerGone) as caught:
        Client("localhost", proxy.port, tls=ssl.create_default_context(cafile=str(certificate)))
    assert "certificate verify failed" in str(caught.value).lower().replace("_", " ") \
        or "self" in str(caught.value)


def test_tls_and_plain_do_not_mix(proxy, program):
    with pytest.raises(ServerGone):
        Client("localhost", program.port, tls=proxy.context(), timeout=1)
    with pytest.raises(ServerGone):
        with Client("localhost", proxy.port, timeout=1) as player:
            player.ping()
    assert "Traceback" not in program.log()


def test_a_server_that_falls_silent_behind_tls(proxy, program):
    with proxy.client(timeout=0.2) as player:
        player.login("bob")
        program.process.send_signal(signal.SIGSTOP)
        with pytest.raises(ServerGone) as caught:
            player.ping()
        assert str(caught.value) == "The server did not answer within 0.2 seconds."
        program.process.send_signal(signal.SIGCONT)


def test_a_server_that_is_gone_behind_tls(proxy, program):
    with proxy.client() as player:
        player.login("bob")
        program.kill()
        with pytest.raises(ServerGone) as caught:
            player.buy("potion")
        assert str(caught.value) == "The server is gone."


def test_a_server_that_is_down_behind_tls_is_one_line(start_proxy, program):
    proxy = start_proxy(patience=("timeout connect 5s", "timeout connect 50ms"))
    program.kill()
    status, out, err = run(proxy.port, ["bob"], "--host", "localhost", "--tls", "--ca",
                           proxy.certificate)
    assert (status, err) == (0, "")
    assert out.startswith("Nickname:\nThe server is gone.") and out.count("\n") == 2


# --- what the proxy bounds ------------------------------------------------------------------------

# The page's time limits in a thirtieth of the time.
FAST = {"client": ("timeout client 30s", "timeout client 1s"),
        "server": ("timeout server 30s", "timeout server 1s"),
        "client_fin": ("timeout client-fin 30s", "timeout client-fin 1s"),
        "server_fin": ("timeout server-fin 30s", "timeout server-fin 1s")}


def silent(proxy, host="127.0.0.3"):
    """Return a socket that is connected from another address, and says nothing."""
    return socket.create_connection(("127.0.0.1", proxy.port), PATIENCE, (host, 0))


def is_rejected(sock):
    """Return whether the proxy closes the connection."""
    try:
        return sock.recv(1) == b""
    except socket.timeout:
        return False
    except socket.error as error:
        return error.errno == errno.ECONNRESET


def test_silent_handshakes_of_one_address_keep_nobody_out(start_proxy):
    proxy = start_proxy(limit=("maxconn 21000", "maxconn 20"),
                        share=("sc0_conn_cur gt 2000", "sc0_conn_cur gt 5"))
    attackers = [silent(proxy) for _ in range(5)]
    with proxy.client() as player:
        for _ in range(40):
            try:
                attackers.append(silent(proxy))
            except socket.error as error:       # rejected at once
                assert error.errno == errno.ECONNRESET
        assert player.login("bob")["created"]
        with proxy.client() as another:
            assert another.login("ann")["created"]
        assert all(is_rejected(each) for each in attackers[5:])
        for each in attackers[:5]:
            each.settimeout(0.001)
            assert not is_rejected(each)
    for each in attackers:
        each.close()


def test_connections_of_one_address_again_and_again_are_rejected(start_proxy):
    proxy = start_proxy(rate=("sc0_conn_rate gt 2000", "sc0_conn_rate gt 5"))

    def connects():
        try:
            with contextlib.closing(silent(proxy)) as sock:
                proxy.context().wrap_socket(sock, server_hostname="localhost").close()
                return True
        except socket.error:            # a reset, or the end within the handshake
            return False

    assert [connects() for _ in range(5)] == [True] * 5
    wait_for(lambda: not connects(), "a rejection")         # the rate is of the last seconds
    with proxy.client() as player:
        assert player.ping() == "pong"


def test_a_silent_handshake_is_cut_and_an_idle_player_is_not(start_proxy):
    proxy = start_proxy(**FAST)
    with proxy.client() as player:
        assert player.login("bob")["created"]
        for _ in range(2):
            with contextlib.closing(silent(proxy)) as sock:
                assert is_rejected(sock)    # after the time limit, in which the player is idle
        assert player.buy("potion")["items"] == ["potion"]
    wait_for(lambda: proxy.log().count(": Timeout during SSL handshake") == 2, "both in the log")


def test_a_client_that_does_not_close_after_the_server_has_is_cut(start_proxy):
    proxy = start_proxy(**FAST)
    sock = proxy.context().wrap_socket(silent(proxy), server_hostname="localhost")
    sock.sendall(b"GET / HTTP/1.1\r\n")     # ends the connection
    assert sock.recv(1) == b""
    line = r"127\.0\.0\.3:%d .* lavka-tls~ lavka/lavka .* cD " % sock.getsockname()[1]
    wait_for(lambda: re.search(line, proxy.log()), "the end of the connection")
    sock.close()


def test_the_proxy_logs_the_addresses_of_players(proxy):
    with proxy.client() as player:
        player.ping()
        host, port = player._sock.getsockname()
    line = r"%s:%d \[.*\] lavka-tls~ lavka/lavka " % (re.escape(host), port)
    wait_for(lambda: re.search(line, proxy.log()), "the connection in the log")


@pytest.mark.skipif(not is_root(), reason="HAProxy is not started as root")
def test_the_proxy_gives_up_the_rights_of_root(proxy):
    with io.open("/proc/%d/status" % proxy.process.pid) as status:
        users = re.search(r"^Uid:(.*)", status.read(), re.MULTILINE).group(1).split()
    assert set(users) == {"%d" % pwd.getpwnam("haproxy").pw_uid}
    assert os.readlink("/proc/%d/root" % proxy.process.pid) == CHROOT


@pytest.mark.parametrize("arguments, says", [
    (["--ca", "x.crt"], "--ca is of use only with --tls"),
    (["--tls", "--ca", "no/such.crt"], "No such file"),
    (["--tls", "--ca", os.path.join(ROOT, "README.md")], "there are no certificates in")])
def test_wrong_certificate_options(arguments, says):
    status, out, err = run(None, [], *arguments)
    assert status == 2 and out == "" and says in err and err.startswith("usage: ")


# --- several servers ------------------------------------------------------------------------------

class Balancer(Proxy):
    """HAProxy in front of two servers that share a database."""

    def __init__(self, directory, programs):
        self.admin = os.path.join(directory, "admin")
        one, two = programs
        Proxy.__init__(
            self, directory, 1, limit=("maxconn 50000", "maxconn 100"),
            admin=("/run/haproxy/lavka.sock", self.admin),
            checks=("inter 2s", "inter 100ms"), patience=("timeout check 5s", "timeout check 1s"),
            share=("sc0_conn_cur gt 2000", "sc0_conn_cur gt 20"),
            one=("127.0.0.1:7777", "127.0.0.1:%d" % one.port),
            two=("127.0.0.1:7787", "127.0.0.1:%d" % two.port), **FAST)

    def accepts(self):
        return os.path.exists(self.admin) and Proxy.accepts(self)

    def ask(self, command):
        """What HAProxy answers to an operator."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.connect(self.admin)
            sock.sendall(command.encode("ascii") + b"\n")
            return sock.makefile("rb").read().decode("utf-8")

    def figure(self, server, name):
        """From HAProxy's statistics."""
        rows = [row.split(",") for row in self.ask("show stat").splitlines()]
        return [row[rows[0].index(name)] for row in rows if row[:2] == ["servers", server]][0]


@pytest.fixture
def programs(cluster, start):
    """Two servers on one database."""
    database = cluster.url(cluster.create_database(cluster.template))
    return [start(database=database) for _ in range(2)]


@pytest.fixture
def balancer(programs, directory):
    if not has_program("haproxy"):
        pytest.skip("HAProxy is not installed")
    balancer = Balancer(directory, programs)
    for name in ("one", "two"):
        wait_for(lambda: balancer.figure(name, "check_status") == "L7OK", "an answered check")
    wait_for(lambda: balancer.figure("BACKEND", "scur") == "0", "nobody to be there")
    yield balancer
    balancer.stop()


def players(program):
    return program.stats()["players"]


def test_players_of_two_servers_behind_the_proxy(balancer, programs):
    """They are spread; a nickname is one player's; who leaves one server can go to the other."""
    clients = [Client("127.0.0.1", balancer.port) for _ in range(10)]
    for number, player in enumerate(clients):
        player.login("player %d" % number)
    assert [players(program) for program in programs] == [5, 5]
    others = [Client("127.0.0.1", balancer.port) for _ in range(4)]
    for other in others:
        with pytest.raises(RpcError) as caught:
            other.login("player 0")
        assert caught.value.reason == "nickname_in_use"
    assert clients[0].buy("potion")["items"] == ["potion"]
    clients[0].logout()
    accounts = []
    for other in others:                    # on both servers, one after the other
        accounts.append(other.login("player 0")["account"])
        other.logout()
    assert all(account["items"] == ["potion"] for account in accounts)
    for player in clients + others:
        player.close()


def test_a_server_that_hangs_or_dies_gets_no_players(balancer, programs):
    one, two = programs
    hanging = Client("127.0.0.1", balancer.port)
    hanging.login("bob")
    victim, other = (one, two) if players(one) else (two, one)
    name = "one" if victim is one else "two"
    victim.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: balancer.figure(name, "status") == "DOWN", "the check to fail")
    with pytest.raises(ServerGone):         # at once, not after a time limit
        hanging.ping()
    wait_for(lambda: can_log_in(balancer, "ann"), "the other server")
    assert not can_log_in(balancer, "bob")
    victim.kill()                           # with its session goes its hold on the nickname
    wait_for(lambda: can_log_in(balancer, "bob"), "the nickname")
    wait_for(lambda: 'login nickname="bob"' in other.log(), "it in the log of the other one")


def can_log_in(balancer, nickname):
    """Whether it can at this moment."""
    try:
        with Client("127.0.0.1", balancer.port) as player:
            return player.login(nickname)
    except (RpcError, ServerGone):          # on a busy machine, HAProxy's check may fail for once
        return None


def test_no_address_keeps_the_others_out_of_the_balancer(balancer):
    """Connections from one, which say nothing, or are not closed after the server has."""
    player = Client("127.0.0.1", balancer.port)
    assert player.login("bob")["created"]
    attackers = [silent(balancer) for _ in range(20)]
    for each in attackers:
        each.sendall(b"GET / HTTP/1.1\r\n")     # ends the connection
    wait_for(lambda: balancer.figure("BACKEND", "scur") == "1", "the attackers to be cut")
    for _ in range(120):                        # the proxy has room for 100
        try:
            attackers.append(silent(balancer))
        except socket.error as error:           # rejected at once
            assert error.errno == errno.ECONNRESET
    assert can_log_in(balancer, "ann")
    wait_for(lambda: balancer.figure("BACKEND", "scur") == "21", "those that are not rejected")
    assert player.buy("potion")["items"] == ["potion"]
    for each in attackers + [player]:
        each.close()


def test_a_server_is_drained(balancer, programs):
    one, two = programs
    clients = [Client("127.0.0.1", balancer.port) for _ in range(4)]
    for number, player in enumerate(clients):
        player.login("player %d" % number)
    assert players(one) == 2
    assert balancer.ask("set server servers/one state drain").strip() == ""
    for number, player in enumerate(clients):
        assert player.buy("potion")["items"] == ["potion"]      # nobody is disturbed
        player.close()
        wait_for(lambda: can_log_in(balancer, "player %d" % number), "the nickname")
    wait_for(lambda: players(one) == players(two) == 0, "all to be gone")
    newcomers = [Client("127.0.0.1", balancer.port) for _ in range(4)]
    for number, player in enumerate(newcomers):
        player.login("player %d" % number)
    assert (players(one), players(two)) == (0, 4)
    for player in newcomers:
        player.close()
    one.process.send_signal(signal.SIGTERM)
    assert one.wait() == 0


# --- the units ------------------------------------------------------------------------------------

UNITS = {"lavka.service": "server.py", "lavka@.service": "server.py",
         "lavka-exporter.service": "deploy/exporter.py"}


def unit(name):
    with io.open(os.path.join(ROOT, "deploy", name), encoding="utf-8") as file:
        return file.read()


def analyze(*arguments):
    """Run systemd-analyze; return (exit status, output)."""
    if not has_program("systemd-analyze"):
        pytest.skip("systemd is not installed")
    process = subprocess.Popen(["systemd-analyze"] + list(arguments), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    output = process.communicate()[0].decode("utf-8")
    return process.returncode, output


@pytest.mark.parametrize("name", sorted(UNITS))
def test_unit_is_what_systemd_understands(directory, name):
    assert "ExecStart=/opt/lavka/.venv/bin/python /opt/lavka/%s\n" % UNITS[name] in unit(name)
    path = os.path.join(directory, name)
    with io.open(path, "w", encoding="utf-8") as file:
        # That of a machine where it is installed.
        file.write(unit(name).replace("/opt/lavka/.venv/bin/python", sys.executable))
    assert analyze("verify", "--man=no", path) == (0, "")


@pytest.mark.parametrize("name", sorted(UNITS))
def test_unit_gives_the_server_little_to_abuse(name):
    """Its exposure is 1.5 of 10 at most."""
    path = os.path.join(ROOT, "deploy", name)
    version = re.match(r"systemd (\d+)", analyze("--version")[1]).group(1)
    if int(version) < 250:
        pytest.skip("systemd %s analyzes no files" % version)
    status, output = analyze("security", "--no-pager", "--offline=true", "--threshold=15", path)
    assert status == 0, output.splitlines()[-1]


def test_units_differ_in_their_names_and_variables_alone():
    one, several = [[line for line in unit(name).splitlines() if not line.startswith("#")]
                    for name in ("lavka.service", "lavka@.service")]
    assert [line for line in several if line not in one] == [
        "Description=Lavka, an in-game account and item shop (%i)",
        "After=network.target postgresql.service", "EnvironmentFile=/etc/lavka/%i"]
    assert len(one) == len(several)
