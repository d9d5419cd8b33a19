// What a running pod has, through the helpers of the client: exec, attach, port forwarding, logs, copies.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, connect } from 'node:net';
import { PassThrough } from 'node:stream';
import * as k8s from '@kubernetes/client-node';
import { NAMESPACE, config, core, kept, refused, until } from './kube.mjs';

const SERVER = 'nc -ll -p 7007 -e cat & for i in 1 2 3; do echo line $i; done; trap "exit 0" TERM; while true; do sleep 0.05; done';

async function pod(name, script, more = {}) {
  const container = { name: 'c', image: process.env.IMAGE, command: ['sh', '-c', script], ...more };
  const spec = {
    containers: [container], restartPolicy: 'Never', terminationGracePeriodSeconds: 1, imagePullSecrets: [{ name: 'regcred' }],
  };
  await core.createNamespacedPod({ namespace: NAMESPACE, body: { metadata: { name }, spec } });
}

const ready = (name) => until(`${name} is ready`, async () => {
  const found = await core.readNamespacedPod({ name, namespace: NAMESPACE });
  return found.status.conditions?.some((one) => one.type === 'Ready' && one.status === 'True');
});

/** Runs a command to its end: its streams and its status. */
function run(command, { input = null, tty = false, output = kept() } = {}) {
  const errors = kept();
  return new Promise((resolve, reject) => {
    const done = (status) => resolve({ output: output.text(), bytes: output.bytes(), errors: errors.text(), status });
    new k8s.Exec(config).exec(NAMESPACE, 'box', 'c', command, output, tty ? null : errors, input, tty, done).catch(reject);
  });
}

async function commandsHaveTheirStreamsAndEnds() {
  const both = await run(['sh', '-c', 'echo out; echo err >&2; exit 42']);
  assert.deepEqual([both.output, both.errors, both.status.status], ['out\n', 'err\n', 'Failure']);
  assert.deepEqual(both.status.details.causes, [{ reason: 'ExitCode', message: '42' }]);
  const good = await run(['true']);
  assert.equal(good.status.status, 'Success');
  // An input that ends is told to the command.
  const input = new PassThrough();
  const copied = run(['cat'], { input });
  const big = Buffer.alloc(3_000_000, 'x');
  input.end(big);
  assert.ok((await copied).bytes.equals(big), 'input comes back whole');
  // This client counts the columns and rows of the stream that it writes to.
  const output = kept();
  Object.assign(output, { columns: 77, rows: 33 });
  const terminal = await run(['sh', '-c', "until stty size 2>/dev/null | grep '33 77'; do sleep 0.05; done; exit 3"], { tty: true, output });
  assert.equal(terminal.output.replaceAll('\r', ''), '33 77\n');
  assert.equal(terminal.status.details.causes[0].message, '3');
}

async function portsAreForwarded() {
  const listens = ['sh', '-c', 'grep -q :1B5F /proc/net/tcp /proc/net/tcp6'];
  await until('the pod listens', async () => (await run(listens)).status.status === 'Success');
  const forward = new k8s.PortForward(config);
  const server = createServer((socket) => forward.portForward(NAMESPACE, 'box', [7007], socket, null, socket));
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const sent = Buffer.alloc(300_000, 'y');
  const client = connect(server.address().port, '127.0.0.1');
  const chunks = [];
  await new Promise((resolve, reject) => {
    let length = 0;
    client.on('error', reject);
    client.on('data', (chunk) => {
      chunks.push(chunk);
      length += chunk.length;
      if (length >= sent.length) resolve();
    });
    client.write(sent);
  });
  assert.ok(Buffer.concat(chunks).equals(sent), 'everything comes back');
  client.destroy();
  server.close();
}

async function logsAreReadAndFollowed() {
  const whole = kept();
  await new k8s.Log(config).log(NAMESPACE, 'box', 'c', whole, { tailLines: 2 });
  await until('the end of the log', () => whole.writableFinished || whole.text().length === 14);
  assert.equal(whole.text(), 'line 2\nline 3\n');
  await pod('short', 'for i in 1 2 3; do echo line $i; sleep 0.1; done');
  const followed = kept();
  await until('the pod has begun', async () => {
    const found = await core.readNamespacedPod({ name: 'short', namespace: NAMESPACE });
    return found.status.phase !== 'Pending';
  });
  await new k8s.Log(config).log(NAMESPACE, 'short', 'c', followed, { follow: true });
  await until('the end of the followed log', () => followed.text() === 'line 1\nline 2\nline 3\n');
  const none = await refused(() => new k8s.Log(config).log(NAMESPACE, 'box', 'other', kept()));
  assert.equal(none.code, 400);
}

async function streamsAreAttached() {
  await pod('ear', 'while read line; do echo got $line; done; echo end', { stdin: true, stdinOnce: true });
  await ready('ear');
  const input = new PassThrough();
  const output = kept();
  await new k8s.Attach(config).attach(NAMESPACE, 'ear', 'c', output, null, input, false);
  input.write('one\n');
  await until('the answer', () => output.text() === 'got one\n');
  input.end();
  await until('the end', () => output.text() === 'got one\nend\n');
}

async function filesAreCopied() {
  const here = mkdtempSync('copied-');
  writeFileSync(`${here}/file`, 'hello '.repeat(100_000));
  const copies = new k8s.Cp(config);
  await copies.cpToPod(NAMESPACE, 'box', 'c', here, '/tmp');
  await until('the file has arrived', async () => (await run(['stat', '-c', '%s', '/tmp/file'])).output === '600000\n');
  const back = mkdtempSync('back-');
  await copies.cpFromPod(NAMESPACE, 'box', 'c', 'file', back, '/tmp');
  const read = () => { try { return readFileSync(`${back}/file`, 'utf8'); } catch { return ''; } };
  await until('the file is back', () => read().length === 600_000);
  assert.equal(read(), readFileSync(`${here}/file`, 'utf8'));
}

await pod('box', SERVER);
await ready('box');
await commandsHaveTheirStreamsAndEnds();
await portsAreForwarded();
await logsAreReadAndFollowed();
await streamsAreAttached();
await filesAreCopied();
process.exit(0);
