"""Writes on its line to the worker what only the bootstrap should write."""

import json
import os
import threading


def frame(header, body=b""):
    head = json.dumps(header).encode()
    return len(head).to_bytes(4, "big") + len(body).to_bytes(4, "big") + head + body


def response(request_id, body):
    return frame({"type": "response", "requestId": request_id}, body)


def handler(event, context):
    own = context.aws_request_id
    if event == "twice":
        os.write(3, response(own, b'"early"'))
    elif event == "next":
        os.write(3, response(own, b'"early"') + response("", b'"stolen"') + response("00000000-0000-4000-8000-000000000000", b'"stolen"'))
    elif event == "late":
        threading.Timer(0.5, lambda: os.write(3, response(own, b'"stolen"'))).start()
    elif event == "wait":
        threading.Event().wait(1)
    elif event == "another kind":
        os.write(3, frame({"type": "started"}) + frame({"type": "exited", "status": "exit status 0"}))
    elif event == "long header":
        os.write(3, b"\xff\xff\xff\xff\x00\x00\x00\x00" + bytes(1 << 16))
    elif event == "long body":
        os.write(3, b"\x00\x00\x00\x02\xff\xff\xff\xff{}" + bytes(1 << 16))
    elif event == "deep header":
        os.write(3, (60000).to_bytes(4, "big") + bytes(4) + b"[" * 60000)
    elif event == "close":
        os.close(3)
    return event
