// The Node.js runtime of an execution environment.
//
// It loads the function's handler and answers invocations, one after the other. Its socket to the worker is descriptor 3; a
// message on it is a frame: the lengths of a JSON header and of a body as two big-endian 32-bit numbers, the header, the body.
// Reading it blocks: between two invocations nothing of the function runs, as in an environment that is frozen. With the argument
// "wait" it is started before its function is known, and first waits to be given it.
//
// What a function can see of it (errors, log lines, context, module resolution, when an invocation is over) is what AWS
// Lambda's own runtime shows (https://github.com/aws/aws-lambda-nodejs-runtime-interface-client).

import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import util from 'node:util';

const SOCKET = 3;
const STDOUT = 1;

const require = createRequire(import.meta.url);

// From this version on a handler answers with a value or a promise only.
const PROMISES_ONLY = Number(process.versions.node.split('.')[0]) >= 24;

// The id of the invocation that runs, for the log.
let currentRequestId;

// Sends the error of what runs, and then calls its argument: what to do when nobody catches an error.
let reportUncaught;

// --- the socket ---

const chunk = Buffer.allocUnsafe(1 << 16);

// Returns the header and body of the next frame, or undefined when the worker has closed the socket.
function receive() {
  let frame = chunk;
  let have = readSome(frame, 0);
  if (have === 0) return undefined;
  have = fill(frame, have, 8);
  const headerEnd = 8 + frame.readUInt32BE(0);
  const end = headerEnd + frame.readUInt32BE(4);
  if (end > frame.length) {
    const whole = Buffer.allocUnsafe(end);
    frame.copy(whole, 0, 0, have);
    frame = whole;
  }
  fill(frame, have, end);
  return [JSON.parse(frame.toString('utf8', 8, headerEnd)), frame.toString('utf8', headerEnd, end)];
}

function fill(frame, have, size) {
  while (have < size) {
    const n = readSome(frame, have);
    if (n === 0) throw new Error('the worker closed its socket within a message');
    have += n;
  }
  return have;
}

function readSome(frame, offset) {
  for (;;) {
    try {
      return fs.readSync(SOCKET, frame, offset, frame.length - offset, null);
    } catch (e) {
      if (e.code !== 'EINTR') throw e;
    }
  }
}

// Sends one frame, and calls back. What was printed before is in the log when the worker gets it.
function send(header, body, callback) {
  const head = Buffer.from(JSON.stringify(header));
  const payload = Buffer.from(body);
  const lengths = Buffer.allocUnsafe(8);
  lengths.writeUInt32BE(head.length, 0);
  lengths.writeUInt32BE(payload.length, 4);
  const frame = Buffer.concat([lengths, head, payload]);
  whenWritten([...streams], () => {
    writeAll(SOCKET, frame);
    callback();
  });
}

function writeAll(fd, bytes) {
  for (let sent = 0; sent < bytes.length; ) {
    try {
      sent += fs.writeSync(fd, bytes, sent);
    } catch (e) {
      // process.stdout makes its descriptor non-blocking, and the pipe is full.
      if (e.code !== 'EAGAIN') throw e;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

// process.stdout and process.stderr, if the function has used them. Making one takes milliseconds.
const streams = new Set();

function watchStream(name) {
  const { get, ...rest } = Object.getOwnPropertyDescriptor(process, name);
  Object.defineProperty(process, name, {
    ...rest,
    get() {
      const stream = get.call(process);
      streams.add(stream);
      return stream;
    },
  });
}

// Calls back when the streams have written what they hold.
function whenWritten([stream, ...others], callback) {
  if (stream === undefined) {
    callback();
  } else if (stream.writableLength > 0 && !stream.destroyed) {
    stream.write('', () => whenWritten(others, callback));
  } else {
    whenWritten(others, callback);
  }
}

// --- errors ---

class RuntimeFault extends Error {
  constructor(type, message) {
    super(message);
    // As a class's own name would be: part of the stack, and not a member of its own in the log.
    Object.defineProperty(this, 'name', { value: `Runtime.${type}` });
    Error.captureStackTrace(this, RuntimeFault);
  }
}

function looksLikeError(value) {
  return (
    util.types.isNativeError(value) ||
    ['name', 'message', 'stack'].every((member) => value?.[member] && typeof value[member] === 'string')
  );
}

// Returns the error object that the caller of the invocation sees.
function errorObject(error) {
  try {
    if (looksLikeError(error)) {
      return { errorType: error.name, errorMessage: error.message, trace: error.stack.split('\n') };
    }
    return { errorType: typeof error, errorMessage: error.toString(), trace: [] };
  } catch {
    return {
      errorType: 'handled',
      errorMessage:
        'callback called with Error argument, but there was a problem while retrieving one or more of its message, name, and stack',
    };
  }
}

// Logs an error as JSON with all its members.
function logError(label, value) {
  let text;
  try {
    const error = value instanceof Error ? value : new Error(value);
    text = JSON.stringify(error, (_key, v) => (v instanceof Error ? loggedMembers(v) : v));
  } catch {
    text = JSON.stringify(errorObject(value));
  }
  log('ERROR', label, `\t${text}`);
}

function loggedMembers(error) {
  const members = { errorType: error.name, errorMessage: error.message, code: error.code, ...error };
  if (typeof error.stack === 'string') members.stack = error.stack.split('\n');
  return members;
}

function sendInitError(error, callback) {
  const object = errorObject(error);
  send({ type: 'initError', errorType: String(object.errorType) }, JSON.stringify(object), callback);
}

function sendError(requestId, error, callback) {
  const object = errorObject(error);
  send({ type: 'error', requestId, errorType: String(object.errorType) }, JSON.stringify(object), callback);
}

function sendResponse(requestId, result, callback) {
  let text;
  try {
    text = JSON.stringify(result === undefined ? null : result) ?? 'null';
  } catch {
    throw new Error('Unable to stringify response body');
  }
  send({ type: 'response', requestId }, text, callback);
}

function exitOnUncaught() {
  process.on('uncaughtException', (error) => {
    logError('Uncaught Exception', error);
    reportUncaught(error, () => process.exit(129));
  });
  process.on('unhandledRejection', (reason, promise) => {
    const error = new RuntimeFault('UnhandledPromiseRejection', String(reason));
    Object.assign(error, { reason, promise });
    logError('Unhandled Promise Rejection', error);
    reportUncaught(error, () => process.exit(128));
  });
}

// --- the log ---

const LOG_LEVELS = { trace: 'TRACE', debug: 'DEBUG', info: 'INFO', log: 'INFO', warn: 'WARN', error: 'ERROR', fatal: 'FATAL' };

function log(level, ...args) {
  const line = `${new Date().toISOString()}\t${currentRequestId}\t${level}\t${util.format(...args)}\n`;
  writeAll(STDOUT, Buffer.from(line));
}

function patchConsole() {
  for (const [method, level] of Object.entries(LOG_LEVELS)) {
    console[method] = (...args) => log(level, ...args);
  }
}

// --- the function ---

// Returns the handler that the environment names.
async function loadHandler(root, name) {
  if (name.includes('..')) {
    throw new RuntimeFault(
      'MalformedHandlerName',
      `'${name}' is not a valid handler name. Use absolute paths when specifying root directories in handler names.`,
    );
  }
  const base = path.basename(name);
  const directory = name.slice(0, name.indexOf(base));
  const dot = base.indexOf('.');
  if (dot < 0) throw new RuntimeFault('MalformedHandlerName', 'Bad handler');

  const loaded = await loadModule(root, directory, base.slice(0, dot));
  const handler = base
    .slice(dot + 1)
    .split('.')
    .reduce((nested, key) => nested && nested[key], loaded);
  if (!handler) throw new RuntimeFault('HandlerNotFound', `${name} is undefined or not exported`);
  if (typeof handler !== 'function') throw new RuntimeFault('HandlerNotFound', `${name} is not a function`);
  return handler;
}

async function loadModule(root, directory, name) {
  try {
    return await findModule(root, directory, name);
  } catch (e) {
    if (e instanceof SyntaxError) throw new RuntimeFault('UserCodeSyntaxError', String(e));
    if (e?.code === 'MODULE_NOT_FOUND') throw new RuntimeFault('ImportModuleError', String(e));
    throw e;
  }
}

// Tries the module's file without extension, as .js, .mjs and .cjs, and then as Node.js itself finds it from root.
async function findModule(root, directory, name) {
  const file = path.resolve(root, directory, name);
  const isModule = fs.existsSync(`${file}.js`) && isInModulePackage(path.dirname(file));
  const required = (extension) => fs.existsSync(file + extension) && require(file + extension);
  const imported = async (extension) => fs.existsSync(file + extension) && import(pathToFileURL(file + extension));
  return (
    required('') ||
    (isModule ? await imported('.js') : required('.js')) ||
    (await imported('.mjs')) ||
    required('.cjs') ||
    require(require.resolve(name, { paths: [root, directory] }))
  );
}

// Reports whether the nearest package.json makes .js files ES modules.
function isInModulePackage(directory) {
  if (directory.endsWith('/node_modules')) return false;
  const file = path.join(directory, 'package.json');
  if (fs.existsSync(file)) {
    try {
      return JSON.parse(fs.readFileSync(file, 'utf8'))?.type === 'module';
    } catch (e) {
      console.warn(`${file} cannot be read, it will be ignored for ES module detection purposes.`, e);
      return false;
    }
  }
  return directory !== '/' && isInModulePackage(path.dirname(directory));
}

function isAsync(handler) {
  return handler.constructor?.name === 'AsyncFunction';
}

// Refuses a handler that takes a callback where AWS no longer gives one.
function checkCallback(handler) {
  if (!PROMISES_ONLY || handler.length !== 3 || isAsync(handler)) return;
  throw new RuntimeFault(
    'CallbackHandlerDeprecated',
    'ERROR: AWS Lambda has removed support for callback-based function handlers starting with Node.js 24. You need to modify this function to use a supported handler signature to use Node.js 24 or later. For more information see https://docs.aws.amazon.com/lambda/latest/dg/nodejs-handler.html.',
  );
}

// --- the invocations ---

// What the event loop does when it has nothing left to do.
let whenIdle = () => {};

function contextOf(header) {
  const deadline = header.deadlineMs;
  return {
    functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
    clientContext: parseMember(header.clientContext, 'ClientContext'),
    identity: parseMember(header.identity, 'CognitoIdentity'),
    invokedFunctionArn: header.functionArn,
    awsRequestId: header.requestId,
    tenantId: undefined,
    getRemainingTimeInMillis: () => deadline - Date.now(),
  };
}

function parseMember(text, name) {
  if (!text) return undefined;
  try {
    return JSON.parse(text);
  } catch (e) {
    throw new Error(`Cannot parse ${name} as json: ${e}`);
  }
}

function setTrace(traceId) {
  if (traceId) {
    process.env._X_AMZN_TRACE_ID = traceId;
  } else {
    delete process.env._X_AMZN_TRACE_ID;
  }
}

// Waits for the next invocation when the event loop comes around.
function schedule(handler) {
  whenIdle = () => {};
  setImmediate(() => {
    const message = receive();
    if (message === undefined) process.exit(0);
    const [header, event] = message;
    currentRequestId = header.requestId;
    setTrace(header.traceId);
    new Invocation(header.requestId, () => schedule(handler)).run(handler, header, event);
  });
}

// Invocation is one call of the handler.
//
// The handler ends it with what it returns, with the callback or with a function of the context: the first of these counts
// (settled), and every other is ignored. The answer may be sent later, or never if an error that nobody catches comes before
// it (answered).
class Invocation {
  constructor(requestId, next) {
    this.requestId = requestId;
    this.next = next;
    this.settled = false;
    this.answered = false;
    this.waitsForEmptyLoop = true;
  }

  run(handler, header, event) {
    reportUncaught = (error, callback) => (this.answered ? callback() : sendError(this.requestId, error, callback));
    whenIdle = () => this.neverSettled(isAsync(handler));
    try {
      const context = this.context(header);
      const result = PROMISES_ONLY
        ? handler(JSON.parse(event), context)
        : handler(JSON.parse(event), context, (error, value) => this.called(error, value));
      if (typeof result?.then === 'function') {
        result.then((value) => this.succeed(value)).catch((error) => this.fail(error));
      } else if (PROMISES_ONLY) {
        this.succeed(result);
      }
    } catch (error) {
      this.fail(error);
    }
  }

  context(header) {
    if (PROMISES_ONLY) return contextOf(header);
    const invocation = this;
    return {
      get callbackWaitsForEmptyEventLoop() {
        return invocation.waitsForEmptyLoop;
      },
      set callbackWaitsForEmptyEventLoop(value) {
        invocation.waitsForEmptyLoop = value;
      },
      succeed: (result) => this.succeed(result),
      fail: (error) => this.fail(error),
      done: (error, result) => (isGiven(error) ? this.fail(error) : this.succeed(result)),
      ...contextOf(header),
    };
  }

  // The handler's callback: an answer waits until the event loop is empty, unless the function does not want that.
  called(error, result) {
    if (isGiven(error)) {
      this.fail(error);
    } else if (!this.waitsForEmptyLoop) {
      this.succeed(result);
    } else if (!this.settled) {
      this.settled = true;
      whenIdle = () => setImmediate(() => this.answer(() => sendResponse(this.requestId, result, this.next)));
    }
  }

  succeed(result) {
    if (this.settled) return;
    this.answer(() => sendResponse(this.requestId, result, this.next));
    this.settled = true;
  }

  fail(error) {
    if (this.settled) return;
    this.settled = true;
    const reason = error ?? 'handled';
    logError('Invoke Error', reason);
    this.answer(() => sendError(this.requestId, reason, this.next));
  }

  answer(send) {
    whenIdle = () => {};
    send();
    this.answered = true;
  }

  // The event loop is empty, so nothing can settle the invocation any more.
  neverSettled(async) {
    if (!async && !PROMISES_ONLY) {
      this.succeed(null);
      return;
    }
    this.fail(
      new RuntimeFault(
        'NodeJsExit',
        'The Lambda runtime client detected an unexpected Node.js exit code. This is most commonly caused by a Promise that was never settled. For more information, see https://nodejs.org/docs/latest/api/process.html#exit-codes',
      ),
    );
  }
}

function isGiven(error) {
  return error !== undefined && error !== null;
}

// Waits, in a process that was started before its function was known, until it is given the function's environment.
function waitForFunction() {
  process.argv.length = 2;
  send({ type: 'waiting' }, '', () => {});
  const message = receive();
  if (message === undefined) process.exit(0);
  const [{ env, dir }] = message;
  // What stays the same is left alone: a TZ that is set, even to what it was, makes Node.js search the whole zone information.
  const given = new Map(env.map((variable) => split(variable)));
  for (const name of Object.keys(process.env)) if (!given.has(name)) delete process.env[name];
  for (const [name, value] of given) if (process.env[name] !== value) process.env[name] = value;
  process.chdir(dir);
}

function split(variable) {
  const equals = variable.indexOf('=');
  return [variable.slice(0, equals), variable.slice(equals + 1)];
}

async function main() {
  if (process.argv[2] === 'wait') waitForFunction();
  watchStream('stdout');
  watchStream('stderr');
  patchConsole();
  reportUncaught = sendInitError;
  exitOnUncaught();
  process.on('beforeExit', () => whenIdle());
  let handler;
  try {
    handler = await loadHandler(process.env.LAMBDA_TASK_ROOT ?? '/var/task', process.env._HANDLER ?? '');
    checkCallback(handler);
  } catch (error) {
    logError(PROMISES_ONLY ? 'Init Error' : 'Uncaught Exception', error);
    sendInitError(error, () => process.exit(129));
    return;
  }
  send({ type: 'ready' }, '', () => schedule(handler));
}

await main();
