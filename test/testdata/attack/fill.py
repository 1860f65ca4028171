"""Writes to /tmp until there is no space."""

CHUNK = b"\xa5" * (1 << 20)


def handler(event, context):
    written = 0
    try:
        with open("/tmp/fill", "wb", buffering=0) as f:
            while True:
                written += f.write(CHUNK)
    except OSError as e:
        return [written >> 20, e.errno]
