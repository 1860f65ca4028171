"""A Lambda function in Python: it greets whoever the event names."""
import platform


def handler(event, context):
    print("greeting", event["name"])
    return {
        "message": f"Hello, {event['name']}, from Python {platform.python_version()}",
        "requestId": context.aws_request_id,
    }
