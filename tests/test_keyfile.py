# -*- coding: utf-8 -*-
"""The file of keys: its modes, its durability, and the clients that change it at once."""
from __future__ import unicode_literals

import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile

import pytest
from conftest import ROOT, environment, needs_strace, wait_for

import keyfile
from constants import KEYS_KEPT
from keyfile import KeyFile, KeyFileError

HOME, AWAY = "127.0.0.1:7777", "[::1]:7777"         # two servers
KEY, OTHER = "k" * 32, "o" * 32


@pytest.fixture
def path(directory):
    """Return the path of a file of keys; neither the file nor its folder is there."""
    return os.path.join(directory, "data", "lavka", "keys.json")


@pytest.fixture
def file(path):
    """Return a KeyFile that has one key."""
    file = KeyFile(path)
    file.add(HOME, "bob", KEY)
    return file


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def contents(path):
    with io.open(path, "rb") as file:
        return file.read()


def write(path, data):
    with io.open(path, "wb") as file:
        file.write(data)


def sentence_of(call, *arguments):
    """Return the text of the KeyFileError that a call raises."""
    with pytest.raises(KeyFileError) as caught:
        call(*arguments)
    return "%s" % caught.value


def start_python(code, *arguments, **options):
    """Start a Python that runs code which knows `KeyFile`; bytes of its output are in a pipe."""
    code = ("from __future__ import unicode_literals\nimport os, sys\nfrom keyfile import KeyFile\n"
            + code)
    return subprocess.Popen(
        options.pop("wrapper", []) + [sys.executable, "-c", code] + list(arguments), cwd=ROOT,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def run_python(code, *arguments, **options):
    """Run code as `start_python` does; return its output."""
    process = start_python(code, *arguments, **options)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    return out.decode("utf-8")


# --- what is in it ------------------------------------------------------------------------------

def test_new_keys_are_128_random_bits_in_hexadecimal():
    keys = {keyfile.new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(re.match("[0-9a-f]{32}$", key) for key in keys)
    for place in range(32):
        assert len({key[place] for key in keys}) == 16


def test_keys_are_those_of_a_server_and_a_nickname(path):
    file = KeyFile(path)
    assert file.keys(HOME, "bob") == []
    nickname = "'; Боб \" \u202e\n👩‍🚀"
    file.add(HOME, "bob", KEY)
    file.add(AWAY, "bob", OTHER)
    file.add(HOME, nickname, KEY)
    file.add(HOME, nickname, OTHER)
    assert KeyFile(path).keys(HOME, "bob") == [KEY]
    assert file.keys(AWAY, "bob") == [OTHER]
    assert file.keys(HOME, nickname) == [OTHER, KEY]
    assert file.keys(HOME, "ann") == file.keys("127.0.0.1:7778", "bob") == []
    assert json.loads(contents(path).decode("utf-8")) == {
        HOME: {"bob": [KEY], nickname: [OTHER, KEY]}, AWAY: {"bob": [OTHER]}}


def test_newest_keys_come_first_and_so_many_stay(file):
    for number in range(KEYS_KEPT + 2):
        KeyFile(file.path).add(HOME, "bob", "%d" % number)              # another client each time
    kept = ["%d" % number for number in range(KEYS_KEPT + 1, 1, -1)]
    assert file.keys(HOME, "bob") == kept
    file.add(HOME, "bob", kept[-1])
    assert file.keys(HOME, "bob") == kept[-1:] + kept[:-1]


def test_removed_key_is_gone_and_the_others_stay(file):
    file.add(HOME, "bob", "new")
    file.remove(HOME, "bob", "new")
    assert file.keys(HOME, "bob") == [KEY]
    file.remove(HOME, "bob", KEY)
    assert file.keys(HOME, "bob") == []
    assert json.loads(contents(file.path).decode("utf-8")) == {}


# --- where it is --------------------------------------------------------------------------------

@pytest.mark.parametrize("data_home, path", [
    ("/data", "/data/lavka/keys.json"), (None, "/home/bob/.local/share/lavka/keys.json"),
    ("", "/home/bob/.local/share/lavka/keys.json"),
    ("data", "/home/bob/.local/share/lavka/keys.json")])
def test_path_follows_the_xdg_specification(monkeypatch, data_home, path):
    monkeypatch.setenv(str("HOME"), str("/home/bob"))
    monkeypatch.delenv(str("XDG_DATA_HOME"), raising=False)
    if data_home is not None:
        monkeypatch.setenv(str("XDG_DATA_HOME"), str(data_home))
    assert keyfile.default_path() == path


def test_player_without_a_home_has_no_file(monkeypatch, directory):
    monkeypatch.chdir(directory)
    file = KeyFile(str("~/.local/share/lavka/keys.json"))   # what it is when no home is known
    for call in (lambda: file.keys(HOME, "bob"), lambda: file.add(HOME, "bob", KEY)):
        assert "no home directory" in sentence_of(call)
    assert os.listdir(directory) == []


def test_undecodable_path_is_used_and_shown(directory):
    path = os.path.join(os.fsencode(directory) if hasattr(os, "fsencode")
                        else directory.encode("utf-8"), b"\xff")
    path = os.path.join(os.fsdecode(path) if hasattr(os, "fsdecode") else path, str("keys.json"))
    file = KeyFile(path)
    file.add(HOME, "bob", KEY)
    assert file.keys(HOME, "bob") == [KEY]
    write(path, b"")
    assert "keys.json" in sentence_of(file.keys, HOME, "bob")


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
def test_only_the_owner_may_read_it_whatever_the_umask(directory, umask):
    home = os.path.join(directory, "home")
    path = os.path.join(home, "share", "lavka", "keys.json")
    code = """
path = sys.argv[1]
os.umask(int(sys.argv[2]))
opened = os.open
def open_and_tell(path, flags, *mode):
    descriptor = opened(path, flags, *mode)
    print("%s %o" % (os.path.basename(path), os.fstat(descriptor).st_mode & 0o7777))
    return descriptor
made = os.mkdir
def make_and_tell(path, *mode):
    made(path, *mode)
    print("%s %o" % (os.path.basename(path), os.stat(path).st_mode & 0o7777))
os.open, os.mkdir = open_and_tell, make_and_tell
for _ in range(2):
    KeyFile(path).add("server", "bob", "key")
"""
    born = [line.split() for line in run_python(code, path, "%d" % umask).splitlines()]
    names = {name for name, _ in born}
    assert {"home", "share", "lavka", "keys.json.lock", "keys.json.new"} <= names
    for _, one in born:
        assert int(one, 8) & 0o077 == 0                 # from the first byte on
    assert mode(path) == mode(path + ".lock") == 0o600
    for folder in (os.path.dirname(path), os.path.join(home, "share"), home):
        assert mode(folder) == 0o700


def test_copied_file_is_made_private_by_the_next_change(file):
    os.chmod(file.path, 0o644)
    file.add(HOME, "ann", KEY)
    assert mode(file.path) == 0o600


def test_symbolic_link_stays_one(directory, path):
    target = os.path.join(directory, "dotfiles", "keys")
    os.makedirs(os.path.dirname(target))
    os.makedirs(os.path.dirname(path))
    os.symlink("../../dotfiles/keys", path)
    file = KeyFile(path)
    for key in (KEY, OTHER):
        file.add(HOME, key, key)
        assert os.readlink(path) == "../../dotfiles/keys"
    assert json.loads(contents(target).decode("utf-8")) == {HOME: {KEY: [KEY], OTHER: [OTHER]}}
    assert mode(target) == 0o600
    assert os.listdir(os.path.dirname(target)) == ["keys"]


# --- files that cannot be read or written ---------------------------------------------------------

@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b"{\"a\": []}", b"{\"a\": {\"b\": \"key\"}}",
    b"{\"a\": {\"b\": [1]}}", b"{\"a\": {\"b\": null}}", b"\xff", b"[" * 100000,
    b"{\"\\ud800\": {}}", b"{\"a\": {\"\\ud800\": []}}", b"{\"a\": {\"b\": [\"\\ud800\"]}}"])
def test_damaged_file_is_a_sentence_and_is_never_overwritten(path, content):
    os.makedirs(os.path.dirname(path))
    write(path, content)
    file = KeyFile(path)
    assert sentence_of(file.keys, HOME, "bob") == (
        "The file of keys, %s, cannot be read: its content is not that of a file of keys." % path)
    assert sentence_of(file.add, HOME, "bob", KEY) == (
        "The file of keys, %s, cannot be written: its content is not that of a file of keys."
        % path)
    assert contents(path) == content


def test_huge_file_is_a_sentence(file):
    with io.open(file.path, "r+b") as data:
        data.truncate(2 ** 40)                          # takes no room on the disk
    assert sentence_of(file.keys, HOME, "bob") == (
        "The file of keys, %s, cannot be read: it is too large." % file.path)
    assert "too large" in sentence_of(file.add, HOME, "ann", KEY)


def make_folder(path):
    os.mkdir(path)


def make_pipe(path):
    os.mkfifo(path)


def make_loop(path):
    os.symlink(path, path)


@pytest.mark.parametrize("make, why", [
    (make_folder, "it is not a file"), (make_pipe, "it is not a file"),
    (make_loop, os.strerror(errno.ELOOP))])
def test_something_else_of_its_name_is_a_sentence(path, make, why):
    os.makedirs(os.path.dirname(path))
    make(path)
    before = os.lstat(path)
    file = KeyFile(path)
    assert sentence_of(file.keys, HOME, "bob").endswith("%s, cannot be read: %s." % (path, why))
    assert sentence_of(file.add, HOME, "bob", KEY).endswith(
        "%s, cannot be written: %s." % (path, why))
    assert os.lstat(path).st_ino == before.st_ino


def test_file_instead_of_its_folder_is_a_sentence(path):
    os.makedirs(os.path.dirname(os.path.dirname(path)))
    write(os.path.dirname(path), b"")
    file = KeyFile(path)
    assert os.strerror(errno.ENOTDIR) in sentence_of(file.keys, HOME, "bob")
    assert path in sentence_of(file.add, HOME, "bob", KEY)


@pytest.fixture
def public_folder():
    """Return a folder that an unprivileged process can use: those of pytest are private."""
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("forbidden, action", [
    ("", "read"), ("", "written"), (".lock", "written"), ("/..", "read"), ("/..", "written"),
    ("/../..", "read")])
def test_missing_permission_is_a_sentence(public_folder, forbidden, action):
    path = os.path.join(public_folder, "share", "lavka", "keys.json")
    out = run_python("""
import keyfile
import encodings.utf_16_le              # it may be in a folder that only root may read
path, forbidden, action = sys.argv[1:]
os.getuid() or os.setuid(65534)         # root needs no permissions
file = KeyFile(path)
file.add("server", "bob", "key")
mode = os.stat(os.path.normpath(path + forbidden)).st_mode
os.chmod(os.path.normpath(path + forbidden), 0)
try:
    file.keys("server", "bob") if action == "read" else file.add("server", "bob", "new")
except keyfile.KeyFileError as error:
    print(error)
os.chmod(os.path.normpath(path + forbidden), mode)
assert file.keys("server", "bob") == ["key"]
""", path, forbidden, action)
    assert out == "The file of keys, %s, cannot be %s: %s.\n" % (
        path, action, os.strerror(errno.EACCES))


def test_full_disk_is_a_sentence_and_loses_nothing(file):
    before = contents(file.path)
    out = run_python("""
import keyfile, resource
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    KeyFile(sys.argv[1]).add("server", "ann", "key")
except keyfile.KeyFileError as error:
    print(error)
""", file.path)
    assert out == "The file of keys, %s, cannot be written: %s.\n" % (
        file.path, os.strerror(errno.EFBIG))
    assert contents(file.path) == before
    file.add(HOME, "ann", OTHER)              # what was left half written is no obstacle
    assert file.keys(HOME, "ann") == [OTHER] and file.keys(HOME, "bob") == [KEY]


def test_file_that_stays_locked_is_a_sentence(file, monkeypatch):
    monkeypatch.setattr(keyfile, "KEY_LOCK_SECONDS", 0.05)
    with io.open(file.path + ".lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another program keeps it locked" in sentence_of(
            file.add, HOME, "ann", OTHER)
        assert file.keys(HOME, "bob") == [KEY]          # reading needs no lock
    file.add(HOME, "ann", OTHER)


def test_system_without_locks_stores_nothing(file, monkeypatch):
    monkeypatch.setattr(keyfile, "fcntl", None)
    before = contents(file.path)
    assert "no locks" in sentence_of(file.add, HOME, "ann", OTHER)
    assert contents(file.path) == before and file.keys(HOME, "bob") == [KEY]


def test_failures_leave_no_descriptor_open(path, monkeypatch):
    os.makedirs(os.path.dirname(path))
    file = KeyFile(path)
    before = os.listdir("/proc/self/fd")
    os.mkdir(path)
    sentence_of(file.keys, HOME, "bob")
    sentence_of(file.add, HOME, "bob", KEY)
    os.rmdir(path)
    os.mkdir(path + ".new")                             # cannot be replaced by a file
    sentence_of(file.add, HOME, "bob", KEY)
    assert os.listdir("/proc/self/fd") == before


# --- several clients, and clients that are killed -------------------------------------------------

KEYS_OF_EACH = 50


def test_two_clients_at_once_lose_no_key(path):
    code = """
file = KeyFile(sys.argv[1])
sys.stdin.read()                        # until both are started
for number in range(%d):
    file.add("server", sys.argv[2] + str(number // 5), sys.argv[2] + str(number))
""" % KEYS_OF_EACH
    clients = [start_python(code, path, name, stdin=subprocess.PIPE)
               for name in ("ann", "tim")]
    for client in clients:
        client.stdin.close()
    for client in clients:
        assert wait_for(lambda: client.poll() is not None, "a client to end")
        assert (client.returncode, client.stderr.read()) == (0, b"")
        client.stdout.close()
        client.stderr.close()
    file = KeyFile(path)
    stored = sum([file.keys("server", "%s%d" % (name, number)) for name in ("ann", "tim")
                  for number in range(KEYS_OF_EACH // 5)], [])
    assert len(stored) == 2 * KEYS_OF_EACH
    assert set(stored) == {"%s%d" % (name, number) for name in ("ann", "tim")
                           for number in range(KEYS_OF_EACH)}


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_killed_client_loses_nothing(file, call):
    """It is killed when the new file is there, before or after it is complete."""
    process = start_python("""
import keyfile, signal
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "write":
    keyfile.json.dumps = die
else:
    setattr(os, sys.argv[2], die)
KeyFile(sys.argv[1]).add("server", "ann", "key")
""", file.path, call)
    _, err = process.communicate()
    assert (process.returncode, err) == (-signal.SIGKILL, b"")
    assert os.path.exists(file.path + ".new")
    assert json.loads(contents(file.path).decode("utf-8")) == {HOME: {"bob": [KEY]}}
    file.add(HOME, "ann", OTHER)              # what it has left is no obstacle
    assert file.keys(HOME, "bob") == [KEY] and file.keys(HOME, "ann") == [OTHER]
    assert mode(file.path) == 0o600
    assert not os.path.exists(file.path + ".new")


@needs_strace
def test_file_is_durable_before_it_gets_its_name(file, directory):
    trace = os.path.join(directory, "trace")
    run_python('KeyFile(sys.argv[1]).add("server", "ann", "key")', file.path,
               wrapper=["strace", "-o", trace, "-e", "trace=%file,write,fsync"])
    with io.open(trace, encoding="utf-8") as lines:
        calls = [line.split(" = ") for line in lines if " = " in line]
    begin, = [number for number, (call, _) in enumerate(calls) if re.search(r"\.new.*O_EXCL", call)]
    new = calls[begin][1].strip()
    calls = [(re.match(r"\w+", call).group(), call) for call, _ in calls[begin + 1:]]
    done = [name for name, call in calls
            if name.startswith("rename") or re.match(r"(write|fsync)\(", call)]
    assert done[:4] == ["write", "fsync", "rename", "fsync"]
    texts = [call for name, call in calls if name in ("write", "fsync", "rename")]
    assert texts[0].startswith("write(%s, " % new) and texts[1].startswith("fsync(%s)" % new)
    folder, = [call for name, call in calls if name.startswith("open") and "keys.json" not in call
               and os.path.dirname(file.path) in call]
    assert "O_RDONLY" in folder
