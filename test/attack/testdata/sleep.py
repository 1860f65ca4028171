import os
import time

time.sleep(float(os.environ.get("INIT_SECONDS", "0")))


def handler(event, context):
    if event == "kill":
        os.kill(os.getpid(), 9)
    while event == "spin":
        pass
    time.sleep(event)
    return event
