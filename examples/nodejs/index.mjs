// A Lambda function in Node.js: it greets whoever the event names.
export const handler = async (event, context) => {
  console.log("greeting", event.name);
  return {
    message: `Hello, ${event.name}, from Node.js ${process.versions.node}`,
    requestId: context.awsRequestId,
  };
};
