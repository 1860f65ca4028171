import base64
import os


def handler(event, context):
    for line in event:
        os.write(1, base64.b64decode(line) + b"\n")
