// BullMQ for the benchmark: node peer.js HOST PORT.
//
// Reads one JSON object a line: a call with its number, as {"call":1,"op":"start","data":{...}}, or that a task's handler has returned, as
// {"done":7} with "error" where it failed. Writes one a line: that a call is through, as {"call":1} with "error" where it failed, or a task
// to handle, as {"task":7,"data":{...}}. Ends with its input.
'use strict';

const { Queue, Worker } = require('bullmq');

const [host, port] = process.argv.slice(2);
const connection = { host, port: Number(port) };
const queueName = 'bench';
const taskName = 'noop';

const queue = new Queue(queueName, { connection });
queue.on('error', report);

let worker;
const running = new Map(); // a task's number: what its handler's return settles
let tasks = 0;

const operations = {
  open: () => queue.waitUntilReady(),
  start: ({ data }) => queue.add(taskName, data),
  startMany: ({ data }) => queue.addBulk(data.map((each) => ({ name: taskName, data: each }))),
  startAt: ({ at, data }) => queue.add(taskName, data, { delay: Math.max(0, at - Date.now()) }),
  work: ({ concurrency }) => {
    worker = new Worker(queueName, handle, { connection, concurrency });
    worker.on('error', report);
    return worker.waitUntilReady();
  },
  stop: () => worker.close(),
};

function handle(job) {
  return new Promise((resolve, reject) => {
    const task = ++tasks;
    running.set(task, { resolve, reject });
    write({ task, data: job.data });
  });
}

function receive(message) {
  if (message.done === undefined) {
    call(message);
    return;
  }
  const { resolve, reject } = running.get(message.done);
  running.delete(message.done);
  if (message.error) {
    reject(new Error(message.error));
  } else {
    resolve();
  }
}

async function call(message) {
  try {
    await operations[message.op](message);
    write({ call: message.call });
  } catch (error) {
    write({ call: message.call, error: error.message });
  }
}

let output = '';

// write gathers what one turn of the event loop has to say, as each write to a pipe is a system call that blocks.
function write(message) {
  if (output === '') {
    setImmediate(() => {
      const text = output;
      output = '';
      process.stdout.write(text);
    });
  }
  output += JSON.stringify(message) + '\n';
}

function report(error) {
  console.error(`bullmq: ${error.message}`);
}

let input = '';
process.stdin.setEncoding('utf8');
process.stdin.on('data', (text) => {
  const lines = (input + text).split('\n');
  input = lines.pop();
  lines.forEach((line) => receive(JSON.parse(line)));
});
process.stdin.on('end', () => process.exit(0));
