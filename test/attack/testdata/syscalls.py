"""Makes the system calls of the event, each in a process of its own, and says how each ended: an errno's name, "done" or a signal."""

import ctypes
import errno
import os

libc = ctypes.CDLL(None, use_errno=True)


def argument(a):
    """A number is itself, a text a pointer to it, a list a pointer to as many zeros as its only number says."""
    if isinstance(a, str):
        return ctypes.create_string_buffer(a.encode())
    if isinstance(a, list):
        return ctypes.create_string_buffer(a[0])
    return ctypes.c_long(a)


def attempt(call):
    ctypes.set_errno(0)
    args = [argument(a) for a in call["args"]]
    if libc.syscall(call["number"], *args) >= 0:
        return "done"
    return errno.errorcode[ctypes.get_errno()]


def in_child(call):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(w, attempt(call).encode())
        os._exit(0)
    os.close(w)
    said = os.read(r, 100).decode()
    os.close(r)
    _, status = os.waitpid(pid, 0)
    return said or "signal %d" % os.WTERMSIG(status)


def handler(event, context):
    return {call["name"]: in_child(call) for call in event}
