"""Tries to change what the environment is made of, in every way that a file can be changed."""

import mmap
import os

PATHS = ["/var/task", "/opt", "/var/runtime", "/", "/usr/bin", "/usr/lib", "/etc"]
FILES = ["/var/task/index.py", "/var/runtime/bootstrap.py", "/kiln-guest", "/etc/passwd", "/usr/bin/env"]


def overwrite(path):
    with open(path, "r+b") as f:
        f.write(b"attack")


def map_writable(path):
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as m:
        m[0] = 0


def reopen(path):
    """A descriptor that is open for reading becomes one for writing by its name in /proc."""
    with open(path, "rb") as f:
        fd = os.open("/proc/self/fd/%d" % f.fileno(), os.O_WRONLY)
        os.write(fd, b"attack")


OF_DIRECTORY = {
    "create": lambda p: open(p + "/attack", "w").close(),
    "unnamed file": lambda p: os.open(p, os.O_TMPFILE | os.O_RDWR),
    "mkdir": lambda p: os.mkdir(p + "/attack"),
    "symlink": lambda p: os.symlink("/tmp", p + "/attack"),
    "mkfifo": lambda p: os.mkfifo(p + "/attack"),
    "rename": lambda p: os.rename(p, p + "-attack"),
    "chmod": lambda p: os.chmod(p, 0o777),
    "chown": lambda p: os.chown(p, os.getuid(), os.getgid()),
    "rmdir": lambda p: os.rmdir(p),
    "times": lambda p: os.utime(p),
}
OF_FILE = {
    "truncate": lambda p: os.truncate(p, 0),
    "open to truncate": lambda p: os.open(p, os.O_RDONLY | os.O_TRUNC),
    "overwrite": overwrite,
    "append": lambda p: open(p, "ab").write(b"attack"),
    "map": map_writable,
    "reopen": reopen,
    "unlink": os.unlink,
    "replace": lambda p: os.rename("/tmp/replacement", p),
    "link into": lambda p: os.link("/tmp/replacement", p + "-attack"),
    "chmod": lambda p: os.chmod(p, 0o4777),
    "chown": lambda p: os.chown(p, os.getuid(), os.getgid()),
    "times": lambda p: os.utime(p),
    "attribute": lambda p: os.setxattr(p, "user.attack", b"x"),
    "capability": lambda p: os.setxattr(p, "security.capability", bytes.fromhex("0100000200000000000000000000000000000000")),
}


def attempt(f, path):
    try:
        f(path)
        return "done"
    except OSError as e:
        return os.strerror(e.errno)


def handler(event, context):
    open("/tmp/replacement", "w").close()
    said = {"%s %s" % (name, p): attempt(f, p) for p in PATHS for name, f in OF_DIRECTORY.items()}
    said.update({"%s %s" % (name, p): attempt(f, p) for p in FILES for name, f in OF_FILE.items()})
    return said
