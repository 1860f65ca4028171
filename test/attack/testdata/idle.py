"""Leaves behind what goes on by itself: threads and processes that count, and never rest."""

import os
import threading
import time


def spin(path):
    n = 0
    while True:
        n += 1
        if n % 1000 == 0:
            with open(path, "w") as f:
                f.write(str(n))


def handler(event, context):
    if event == "start":
        for i in range(3):
            threading.Thread(target=spin, args=("/tmp/thread%d" % i,), daemon=True).start()
        for i in range(2):
            if os.fork() == 0:
                os.setsid()
                spin("/tmp/process%d" % i)
    if event == "hang":
        while True:
            pass
    if event == "look":
        time.sleep(0.3)
    return {f: os.stat("/tmp/" + f).st_mtime for f in os.listdir("/tmp")}
