"""Takes as much of one thing as there is and says how much that was and what came then."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import threading

libc = ctypes.CDLL(None, use_errno=True)
MEGABYTE = bytes(1 << 20)


def threads():
    threading.stack_size(64 << 10)
    stop = threading.Event()
    n = 0
    try:
        while True:
            threading.Thread(target=stop.wait, daemon=True).start()
            n += 1
    except RuntimeError:
        stop.set()
        return n, "EAGAIN"


def count(take):
    kept = []
    try:
        while True:
            kept.append(take())
    except OSError as e:
        return len(kept), errno.errorcode[e.errno]


def full_pipe():
    r, w = os.pipe()
    fcntl.fcntl(w, 1031, 1 << 20)  # F_SETPIPE_SZ
    os.set_blocking(w, False)
    fill(lambda: os.write(w, bytes(1 << 16)))
    return r, w


def full_socket():
    a, b = socket.socketpair()
    a.setblocking(False)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    fill(lambda: a.send(bytes(1 << 16)))
    return a, b


def full_connection():
    server = socket.create_server(("127.0.0.1", 0))
    c = socket.create_connection(server.getsockname())
    s, _ = server.accept()
    server.close()
    c.setblocking(False)
    fill(lambda: c.send(bytes(1 << 16)))
    return c, s


def fill(write):
    try:
        while True:
            write()
    except BlockingIOError:
        pass


def shared_file():
    """Memory that belongs to no process."""
    fd = os.memfd_create("bomb")
    for _ in range(16):
        os.write(fd, MEGABYTE)
    return fd


def files_without_names():
    """Files that were deleted while they were open, of 16 MB each."""
    kept, written = [], 0
    try:
        while True:
            kept.append(os.open("/tmp/gone", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            os.unlink("/tmp/gone")
            for _ in range(16):
                written += os.write(kept[-1], MEGABYTE)
    except OSError as e:
        return written >> 20, errno.errorcode[e.errno]


def holes():
    """Fills a file backwards that claims to be larger than /tmp: what counts is what is written, not where."""
    fd = os.open("/tmp/sparse", os.O_RDWR | os.O_CREAT)
    written = 0
    try:
        os.ftruncate(fd, 600 << 20)
        for at in reversed(range(600)):
            written += os.pwrite(fd, MEGABYTE, at << 20)
        return written >> 20, "all"
    except OSError as e:
        return written >> 20, errno.errorcode[e.errno]


def shared_mapping():
    """Memory that a process shares with children that it does not have."""
    kept = mmap.mmap(-1, 16 << 20)
    for _ in range(16):
        kept.write(MEGABYTE)
    return kept


def shared_segment():
    n = 0
    libc.shmat.restype = ctypes.c_void_p
    while True:
        segment = libc.shmget(0, ctypes.c_size_t(16 << 20), 0o600)
        if segment < 0:
            return n, errno.errorcode[ctypes.get_errno()]
        ctypes.memset(libc.shmat(segment, None, 0), 1, 16 << 20)
        n += 1


def shared_directory():
    try:
        fd = os.open("/dev/shm/bomb", os.O_WRONLY | os.O_CREAT)
    except OSError as e:
        return 0, errno.errorcode[e.errno]
    return count(lambda: os.write(fd, MEGABYTE))


def names():
    """Long names and long links cost the kernel memory, not the disk space."""
    n = 0
    try:
        while True:
            os.symlink("x" * 4000, "/tmp/%d-%s" % (n, "y" * 200))
            n += 1
    except OSError as e:
        return n, errno.errorcode[e.errno]


def attributes():
    n = 0
    open("/tmp/a", "w").close()
    try:
        while True:
            os.setxattr("/tmp/a", "user.%d" % n, bytes(60000))
            n += 1
    except OSError as e:
        return n, errno.errorcode[e.errno]


def depth():
    os.chdir("/tmp")
    n = 0
    try:
        while True:
            os.mkdir("d")
            os.chdir("d")
            n += 1
    except OSError as e:
        return n, errno.errorcode[e.errno]


def mappings(most):
    """Each mapping costs the kernel a little, and its bytes nothing."""
    libc.mmap.restype = ctypes.c_void_p
    n = 0
    while n < most:
        # Every second one is of another kind, so that no two become one.
        if libc.mmap(None, ctypes.c_size_t(4096), 1 + n % 2 * 2, 0x22, -1, 0) == ctypes.c_void_p(-1).value:
            return n, errno.errorcode[ctypes.get_errno()]
        n += 1
    return n, "enough"


def timers(most):
    n = 0
    while n < most:
        timer = ctypes.c_void_p()
        if libc.timer_create(1, None, ctypes.byref(timer)) != 0:
            return n, errno.errorcode[ctypes.get_errno()]
        n += 1
    return n, "enough"


def signals(most):
    n = 0
    libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
    while n < most:
        if libc.sigqueue(os.getpid(), signal.SIGRTMIN, None) != 0:
            return n, errno.errorcode[ctypes.get_errno()]
        n += 1
    return n, "enough"


def watches(most):
    fd = libc.inotify_init()
    n = 0
    while n < most:
        path = "/tmp/w%d" % n
        try:
            open(path, "w").close()
        except OSError as e:
            return n, errno.errorcode[e.errno]
        if libc.inotify_add_watch(fd, path.encode(), 0xFFF) < 0:
            return n, errno.errorcode[ctypes.get_errno()]
        n += 1
    return n, "enough"


def files_read():
    """Brings more contents of files into the host's memory than the function has."""
    read = 0
    for folder, _, names in os.walk("/usr"):
        for path in (os.path.join(folder, name) for name in names):
            if os.path.islink(path) or os.path.getsize(path) < 1 << 20 or not os.access(path, os.R_OK):
                continue
            with open(path, "rb") as f:
                while chunk := f.read(1 << 20):
                    read += len(chunk)
            if read > 300 << 20:
                return read >> 20, "enough"
    return read >> 20, "all"


BOMBS = {
    "threads": threads,
    "descriptors": lambda: count(lambda: os.open("/dev/null", os.O_RDONLY)),
    "pipes": lambda: count(full_pipe),
    "sockets": lambda: count(full_socket),
    "connections": lambda: count(full_connection),
    "shared files": lambda: count(shared_file),
    "files without names": files_without_names,
    "holes": holes,
    "shared mappings": lambda: count(shared_mapping),
    "shared segments": shared_segment,
    "shared directory": shared_directory,
    "names": names,
    "attributes": attributes,
    "depth": depth,
    "mappings": mappings,
    "timers": timers,
    "signals": signals,
    "watches": watches,
    "files read": files_read,
}


def handler(event, context):
    if event == "after":
        return event
    bomb = BOMBS[event["of"]]
    return bomb(event["most"]) if bomb in (mappings, timers, signals, watches) else bomb()
