"""Logs event["bytes"] bytes in lines of event["line"] bytes."""

import os


def handler(event, context):
    line = b"x" * (event["line"] - 1) + b"\n"
    block = line * (65536 // len(line))
    written = 0
    while written < event["bytes"]:
        written += os.write(1, block)
    return written
