// What the scripts share: the client's configuration, waiting, streams to strings.

import { Writable } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

export const NAMESPACE = 'default';
export const config = new k8s.KubeConfig();
config.loadFromDefault();
export const core = config.makeApiClient(k8s.CoreV1Api);

// Who hangs ends.
setTimeout(() => { console.error('not done within 240 s'); process.exit(1); }, 240_000).unref();

/** Waits for something that has no event to wait for. */
export async function until(what, isSo, seconds = 90) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const answer = await isSo();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A stream whose bytes are kept. */
export function kept() {
  const chunks = [];
  const stream = new Writable({ write(chunk, _, done) { chunks.push(Buffer.from(chunk)); done(); } });
  stream.bytes = () => Buffer.concat(chunks);
  stream.text = () => stream.bytes().toString();
  return stream;
}

/** The error of a call that is refused. */
export async function refused(call) {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error('not refused');
}
