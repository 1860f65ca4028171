"""Returns what a function can read of the machine that it runs on."""

import ctypes
import os
import re
import socket
import time

DIRECTORIES = ["/proc", "/sys", "/etc", "/dev", "/run", "/var", "/home", "/root", "/mnt", "/tmp"]


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read(1 << 16).decode("latin1")
    except OSError as e:
        return type(e).__name__


def files(top):
    """All files below a directory that can be read, but of other processes: those of one show what there is to see."""
    for folder, dirs, names in os.walk(top):
        dirs[:] = [d for d in dirs if not (folder == "/proc" and d.isdigit() and d != "1") and d not in ("task", "thread-self")]
        for name in names:
            yield os.path.join(folder, name)


def kernel_log():
    libc = ctypes.CDLL(None)
    text = ctypes.create_string_buffer(1 << 16)
    size = libc.klogctl(3, text, len(text))
    return text.raw[: max(size, 0)].decode("latin1")


def search(secrets):
    """The files in which one of the secrets stands, as secret: files."""
    found = {}
    for top in DIRECTORIES:
        for path in files(top):
            if not os.path.isfile(path) or path in ("/proc/kmsg", "/proc/sysrq-trigger"):
                continue
            text = read(path)
            for name, secret in secrets.items():
                if secret in text:
                    found.setdefault(name, []).append(path)
    return found


def handler(event, context):
    if event.get("do") == "read":
        return {path: read(path) for path in event["paths"]}
    sizes = {d: os.statvfs(d) for d in event["sizes"]}
    return {
        "found": search(event["secrets"]),
        "kernelLog": kernel_log(),
        "uname": list(os.uname()),
        "processors": os.cpu_count(),
        "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "memoryKB": int(re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo")).group(1)),
        "zone": list(time.tzname),
        "interfaces": [n for _, n in socket.if_nameindex()],
        "descriptors": {f: os.readlink("/proc/self/fd/" + f) for f in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + f)},
        "bytes": {d: s.f_blocks * s.f_frsize for d, s in sizes.items()},
        "free": {d: s.f_bfree * s.f_frsize for d, s in sizes.items()},
        "status": dict(l.split(":\t", 1) for l in read("/proc/self/status").splitlines() if ":\t" in l),
        "bootID": read("/proc/sys/kernel/random/boot_id").strip(),
    }
