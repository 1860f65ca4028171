"""The Python runtime of an execution environment.

It loads the function's handler and answers invocations, one after the other. Its socket to the worker is descriptor 3; a
message on it is a frame: the lengths of a JSON header and of a body as two big-endian 32-bit numbers, the header, the body.
With the argument "wait" it is started before its function is known, and first waits to be given it.

What a function can see of it (errors, log lines, context, module search path) is what AWS Lambda's own runtime shows
(https://github.com/aws/aws-lambda-python-runtime-interface-client).
"""

import importlib
import json
import logging
import os
import re
import sys
import time

SOCKET = 3
CHUNK = 1 << 16

# Where a layer's packages are.
LAYER_DIRECTORIES = ("/opt/python/lib/python{0}.{1}/site-packages".format(*sys.version_info), "/opt/python")

# The id of the invocation that runs, for the log.
current_request_id = ""


class Fault(Exception):
    """A failure that the runtime found, and that is reported under the runtime's own error type."""

    def __init__(self, error_type, message, trace=None):
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.trace = trace


# --- the socket ---


def receive():
    """Returns the header and body of the next frame, or None when the worker has closed the socket."""
    frame = bytearray(os.read(SOCKET, CHUNK))
    if not frame:
        return None
    fill(frame, 8)
    header_end = 8 + int.from_bytes(frame[0:4], "big")
    end = header_end + int.from_bytes(frame[4:8], "big")
    fill(frame, end)
    return json.loads(bytes(frame[8:header_end])), bytes(memoryview(frame)[header_end:end])


def fill(frame, size):
    """Reads until frame has size bytes."""
    have = len(frame)
    if have >= size:
        return
    frame.extend(bytes(size - have))
    with memoryview(frame) as view:
        while have < size:
            n = os.readv(SOCKET, [view[have:]])
            if n == 0:
                raise EOFError("the worker closed its socket within a message")
            have += n


def send(header, body=b""):
    """Sends one frame. What was printed before is in the log when the worker gets it."""
    flush_output()
    head = json.dumps(header).encode()
    frame = b"".join((len(head).to_bytes(4, "big"), len(body).to_bytes(4, "big"), head, body))
    sent = os.write(SOCKET, frame)
    while sent < len(frame):
        sent += os.write(SOCKET, memoryview(frame)[sent:])


def flush_output():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # the function put something there that cannot be flushed, or closed it


# --- JSON ---


class Encoder(json.JSONEncoder):
    """Encodes what AWS's runtime encodes beyond the json module: Decimal as a number, bytes as text, named tuples as objects."""

    def __init__(self):
        # AWS escapes non-ASCII characters up to Python 3.11.
        super().__init__(ensure_ascii=sys.version_info < (3, 12))
        self.decimals = []
        self.mark = None

    def encode(self, o):
        self.decimals = []
        try:
            if has_named_tuple(o):
                o = without_named_tuples(o)
        except RecursionError:
            pass  # the encoder says better what is wrong with it
        text = super().encode(o)
        if not self.decimals:
            return text
        return re.sub('"%s([0-9]+)"' % self.mark, lambda m: self.decimals[int(m.group(1))], text)

    def default(self, o):
        if isinstance(o, bytes):
            return o.decode("utf-8")
        decimal = sys.modules.get("decimal")
        if decimal is None or not isinstance(o, decimal.Decimal):
            return super().default(o)
        if o.is_nan():
            return float("nan")
        # The json module cannot write a number from its digits: a string that nobody can guess holds the place.
        if self.mark is None:
            self.mark = os.urandom(16).hex() + "-"
        self.decimals.append(str(o))
        return "%s%d" % (self.mark, len(self.decimals) - 1)


def is_named_tuple(o):
    return isinstance(o, tuple) and callable(getattr(o, "_asdict", None))


def has_named_tuple(o):
    if isinstance(o, dict):
        return any(has_named_tuple(v) for v in o.values() if not isinstance(v, str))
    if isinstance(o, (list, tuple)):
        return is_named_tuple(o) or any(has_named_tuple(v) for v in o if not isinstance(v, str))
    return False


def without_named_tuples(o):
    if is_named_tuple(o):
        o = o._asdict()
    if isinstance(o, dict):
        return {k: without_named_tuples(v) for k, v in o.items()}
    if isinstance(o, (list, tuple)):
        return [without_named_tuples(v) for v in o]
    return o


ENCODER = Encoder()


def unmarshal(body):
    try:
        return json.loads(body)
    except Exception as e:
        raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: {}".format(e))


def marshal(answer):
    if isinstance(answer, bytes):
        return answer
    try:
        return ENCODER.encode(answer).encode("utf-8")
    except Exception as e:
        raise Fault("Runtime.MarshalError", "Unable to marshal response: {}".format(e))


# --- the context object ---


class Record:
    """An object whose members are the items of a dictionary."""

    __slots__ = ()

    def __init__(self, items):
        for name in self.__slots__:
            setattr(self, name, items.get(name))

    def __repr__(self):
        members = ",".join("{}={}".format(name, getattr(self, name)) for name in self.__slots__)
        return "{}([{}])".format(type(self).__name__, members)


class CognitoIdentity(Record):
    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(Record):
    __slots__ = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")


class ClientContext(Record):
    __slots__ = ("custom", "env", "client")

    def __init__(self, items):
        super().__init__(items)
        if self.client is not None:
            self.client = Client(self.client)


class LambdaContext:
    """What a handler is told of its invocation."""

    def __init__(self, header):
        env = os.environ.get
        self.aws_request_id = header["requestId"]
        self.log_group_name = env("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = env("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = env("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = env("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn = header.get("functionArn")
        self.tenant_id = None
        client = parse_member(header.get("clientContext"), "Client Context")
        self.client_context = None if client is None else ClientContext(client)
        identity = parse_member(header.get("identity"), "Cognito Identity") or {}
        self.identity = CognitoIdentity(
            {
                "cognito_identity_id": identity.get("cognitoIdentityId"),
                "cognito_identity_pool_id": identity.get("cognitoIdentityPoolId"),
            }
        )
        self._epoch_deadline_time_in_ms = header.get("deadlineMs", 0)

    def get_remaining_time_in_millis(self):
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def log(self, msg):
        sys.stdout.write(str(msg))

    def __repr__(self):
        names = (
            "aws_request_id log_group_name log_stream_name function_name memory_limit_in_mb function_version "
            "invoked_function_arn client_context identity tenant_id"
        ).split()
        members = ",".join("{}={}".format(name, getattr(self, name)) for name in names)
        return "{}([{}])".format(type(self).__name__, members)


def parse_member(text, name):
    if not text:
        return None
    try:
        return json.loads(text)
    except Exception as e:
        raise Fault("Runtime.LambdaContextUnmarshalError", "Unable to parse {} JSON: {}".format(name, e))


# --- the log ---


class LogHandler(logging.Handler):
    """Writes records to the log, with the id of the invocation that runs."""

    def __init__(self):
        super().__init__()
        self.setFormatter(
            logging.Formatter(
                "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n", "%Y-%m-%dT%H:%M:%S"
            )
        )

    def emit(self, record):
        record.aws_request_id = current_request_id
        text = self.format(record)
        # The format ends its line, but a stack trace comes after it.
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


def set_up_output():
    """Makes whole lines appear in the log at once, and gives the root logger its handler."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    logging.Formatter.converter = time.gmtime
    logging.getLogger().addHandler(LogHandler())


def log_error(error):
    """Logs an error object. Indentation becomes no-break spaces, as in AWS's log, where plain ones are trimmed."""
    lines = ["[ERROR] {}{}".format(error["errorType"], ": " + error["errorMessage"] if error["errorMessage"] else "")]
    lines.append("Traceback (most recent call last):")
    for entry in error["stackTrace"]:
        for line in entry.splitlines():
            text = line.lstrip(" ")
            lines.append("\u00a0" * (len(line) - len(text)) + text)
    try:
        sys.stdout.write("\n".join(lines) + "\n")
    except Exception:
        pass  # the function put something there that cannot be written to, or closed it: the caller still gets the error


# --- errors ---


def error_object(message, error_type, request_id, trace):
    return {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": trace or []}


def describe(exception, request_id=""):
    """Returns the error object of an exception."""
    if isinstance(exception, Fault):
        return error_object(exception.message, exception.error_type, request_id, exception.trace)
    import traceback

    frames = [(f.filename, f.lineno, f.name, f.line) for f in traceback.extract_tb(exception.__traceback__)]
    while frames and frames[0][0] == __file__:
        frames.pop(0)  # the runtime's own frames above the function's
    try:
        message = str(exception)
    except Exception:
        message = ""  # a __str__ of the function's that fails itself
    return error_object(message, type(exception).__name__, request_id, traceback.format_list(frames))


def encode_error(error):
    return json.dumps(error, ensure_ascii=ENCODER.ensure_ascii).encode("utf-8", "replace")


# --- the function ---


def set_up_path():
    """Makes the function's own modules come first, then its layers', then what PYTHONPATH says, then the installation's."""
    if sys.path[:1] == [os.path.dirname(__file__)]:
        del sys.path[0]
    sys.path[0:0] = [os.environ.get("LAMBDA_TASK_ROOT", "/var/task"), *LAYER_DIRECTORIES]


def load_handler(name):
    """Imports the function's module and returns the handler that name says."""
    module_name, dot, attribute = name.rpartition(".")
    if not dot:
        raise Fault(
            "Runtime.MalformedHandlerName",
            "Bad handler '{}': not enough values to unpack (expected 2, got 1)".format(name),
        )
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise Fault(
            "Runtime.BuiltInModuleConflict", "Cannot use built-in module {} as a handler module".format(module_name)
        )
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as e:
        raise Fault("Runtime.ImportModuleError", "Unable to import module '{}': {}".format(module_name, e))
    except SyntaxError as e:
        raise Fault(
            "Runtime.UserCodeSyntaxError",
            "Syntax error in module '{}': {}".format(module_name, e),
            ['  File "{}" Line {}\n    {}'.format(e.filename, e.lineno, e.text)],
        )
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise Fault("Runtime.HandlerNotFound", "Handler '{}' missing on module '{}'".format(attribute, module_name))


def initialize():
    """Returns the handler. If that fails, says why and ends the process."""
    try:
        return load_handler(os.environ.get("_HANDLER", ""))
    except Exception as e:
        error = describe(e)
    log_error(error)
    send({"type": "initError", "errorType": error["errorType"]}, encode_error(error))
    sys.exit(1)


def answer(handler, header, body):
    """Runs one invocation."""
    request_id = header["requestId"]
    set_trace(header.get("traceId"))
    try:
        context = LambdaContext(header)
        response = marshal(handler(unmarshal(body), context))
    except Exception as e:
        error = describe(e, request_id)
    else:
        send({"type": "response", "requestId": request_id}, response)
        return
    log_error(error)
    send({"type": "error", "requestId": request_id, "errorType": error["errorType"]}, encode_error(error))


def set_trace(trace_id):
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)


def wait_for_function():
    """Waits, in a process that was started before its function was known, until it is given the function's environment."""
    del sys.argv[1:]
    send({"type": "waiting"})
    message = receive()
    if message is None:
        sys.exit(0)
    header, _ = message
    os.environ.clear()
    os.environ.update(variable.split("=", 1) for variable in header["env"])
    os.chdir(header["dir"])


def main():
    global current_request_id
    os.set_inheritable(SOCKET, False)
    if sys.argv[1:] == ["wait"]:
        wait_for_function()
    set_up_output()
    set_up_path()
    handler = initialize()
    send({"type": "ready"})
    while True:
        message = receive()
        if message is None:
            return
        header, body = message
        current_request_id = header["requestId"]
        answer(handler, header, body)


if __name__ == "__main__":
    main()
