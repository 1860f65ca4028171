// A function that does what its event asks of it.
class OutOfStock extends Error {
  constructor(message) {
    super(message);
    this.name = "OutOfStock";
  }
}

const deeds = {
  echo: (event) => event,
  context: (event, context) => ({
    id: context.awsRequestId,
    arn: context.invokedFunctionArn,
    name: context.functionName,
    version: context.functionVersion,
    memory: context.memoryLimitInMB,
    remaining: context.getRemainingTimeInMillis(),
    client: context.clientContext.custom.k,
  }),
  log: () => console.log("a line"),
  throw: (event) => {
    throw new OutOfStock(event.text);
  },
  exit: () => process.exit(4),
  reject: (event) => {
    Promise.reject(new OutOfStock(event.text));
    return new Promise(() => {});
  },
};

export const handler = async (event, context) => deeds[event.do](event, context);

export const streaming = awslambda.streamifyResponse(async (event, stream) => {
  for (const part of event.parts) stream.write(part);
  stream.end();
});
