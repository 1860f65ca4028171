"""Dials the addresses of the event and says how each attempt ended."""

import socket

FAMILIES = {"unix": socket.AF_UNIX, "tcp4": socket.AF_INET, "tcp6": socket.AF_INET6}


def dial(address):
    network, _, target = address.partition(" ")
    if network == "unix":
        target = target.replace("@", "\0", 1) if target.startswith("@") else target
    else:
        host, _, port = target.rpartition(":")
        target = (host.strip("[]"), int(port))
    try:
        with socket.socket(FAMILIES[network], socket.SOCK_STREAM) as s:
            s.settimeout(1)
            s.connect(target)
            return "connected"
    except OSError as e:
        return e.strerror or str(e)


def handler(event, context):
    return {a: dial(a) for a in event}
