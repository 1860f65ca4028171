"""Closes the receiving half of the runtime's socket to the worker, which is descriptor 3."""

import os
import socket

line = socket.socket(fileno=os.dup(3))
line.shutdown(socket.SHUT_RD)


def handler(event, context):
    return event
