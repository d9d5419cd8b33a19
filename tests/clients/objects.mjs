// Patches of each sort, the client of any kind, watches that are broken off, and an informer over a crash of the server.

import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import * as k8s from '@kubernetes/client-node';
import { NAMESPACE, config, core, refused, until } from './kube.mjs';

const MAPS = `/api/v1/namespaces/${NAMESPACE}/configmaps`;
const labels = { seen: 'by-node' };
const make = (name, data) => core.createNamespacedConfigMap({ namespace: NAMESPACE, body: { metadata: { name, labels }, data } });

async function eachSortOfPatchHasItsMediaType() {
  await make('sorts', { a: '1' });
  const patch = async (strategy, body, more = {}) => {
    const options = k8s.setHeaderOptions('Content-Type', strategy);
    return (await core.patchNamespacedConfigMap({ name: 'sorts', namespace: NAMESPACE, body, ...more }, options)).data;
  };
  assert.deepEqual(await patch(k8s.PatchStrategy.JsonPatch, [{ op: 'add', path: '/data/b', value: '2' }]), { a: '1', b: '2' });
  assert.deepEqual(await patch(k8s.PatchStrategy.MergePatch, { data: { a: null } }), { b: '2' });
  assert.deepEqual(await patch(k8s.PatchStrategy.StrategicMergePatch, { data: { c: '3' } }), { b: '2', c: '3' });
  const applied = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'sorts' }, data: { c: '4' } };
  const conflict = await refused(() => patch(k8s.PatchStrategy.ServerSideApply, applied, { fieldManager: 'me' }));
  assert.equal(conflict.code, 409);
  assert.deepEqual(await patch(k8s.PatchStrategy.ServerSideApply, applied, { fieldManager: 'me', force: true }), { b: '2', c: '4' });
  const unknown = await refused(() => patch('application/patch', {}));
  assert.equal(unknown.code, 415);
  await core.deleteNamespacedConfigMap({ name: 'sorts', namespace: NAMESPACE });
}

async function anyKindIsMadeReadChangedAndDeleted() {
  const any = k8s.KubernetesObjectApi.makeApiClient(config);
  const docs = k8s.loadAllYaml(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: generic, namespace: default}
spec:
  replicas: 0
  selector: {matchLabels: {app: generic}}
  template: {metadata: {labels: {app: generic}}, spec: {containers: [{name: c, image: "x:1"}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: generic, namespace: default}
spec:
  schedule: "@yearly"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "x:1"}]}}}}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: generic}
handler: runc
`);
  for (const doc of docs) {
    const made = await any.create(doc);
    assert.ok(made.metadata.uid && made.metadata.creationTimestamp instanceof Date, doc.kind);
    const read = await any.read(doc);
    assert.equal(read.metadata.uid, made.metadata.uid);
    const change = { ...doc, metadata: { ...doc.metadata, labels } };
    const patched = await any.patch(change, undefined, undefined, undefined, undefined, k8s.PatchStrategy.MergePatch);
    assert.deepEqual({ ...patched.metadata.labels }, labels);
    // Written back as it was read, times and all.
    const replaced = await any.replace({ ...(await any.read(doc)), apiVersion: doc.apiVersion, kind: doc.kind });
    assert.equal(replaced.metadata.uid, made.metadata.uid);
    const listed = await any.list(doc.apiVersion, doc.kind, doc.metadata.namespace, undefined, undefined, undefined, undefined, 'seen=by-node');
    assert.deepEqual(listed.items.map((item) => item.metadata.name), ['generic']);
    await any.delete(doc);
    assert.equal((await refused(() => any.read(doc))).code, 404);
  }
}

async function aWatchIsBrokenOff() {
  const seen = [];
  let ended;
  const end = new Promise((resolve) => { ended = resolve; });
  const controller = await new k8s.Watch(config).watch(
    MAPS, { labelSelector: 'seen=by-node', allowWatchBookmarks: true }, (type, object) => seen.push(`${type} ${object.metadata.name}`), ended);
  await make('watched');
  await until('the watch tells', () => seen.includes('ADDED watched'));
  controller.abort();
  assert.equal((await end)?.name, 'AbortError');
  await core.deleteNamespacedConfigMap({ name: 'watched', namespace: NAMESPACE });
  const over = new Promise((resolve) => { ended = resolve; });
  await new k8s.Watch(config).watch(MAPS, { timeoutSeconds: 1, resourceVersion: '0' }, () => {}, ended);
  // The server ends it in time, which is no error.
  assert.equal((await over) ?? null, null);
}

async function anInformerOutlivesACrash(crash) {
  const list = () => core.listNamespacedConfigMap({ namespace: NAMESPACE, labelSelector: 'seen=by-node' });
  const informer = k8s.makeInformer(config, MAPS, list, 'seen=by-node');
  const seen = [];
  for (const verb of ['add', 'update', 'delete']) informer.on(verb, (object) => seen.push(`${verb} ${object.metadata.name}`));
  let errors = 0;
  let stopped = false;
  informer.on('error', () => {
    errors += 1;
    if (!stopped) setTimeout(() => informer.start().catch(() => {}), 200);
  });
  await make('before');
  await make('goes');
  await informer.start();
  await until('what there is', () => seen.includes('add before') && seen.includes('add goes'));
  const id = core.readNamespacedConfigMap({ name: 'before', namespace: NAMESPACE });
  const { uid, resourceVersion } = (await id).metadata;
  await crash();
  await until('the server is there again', () => core.listNamespace().then(() => true, () => false));
  const kept = await core.readNamespacedConfigMap({ name: 'before', namespace: NAMESPACE });
  assert.deepEqual([kept.metadata.uid, kept.metadata.resourceVersion], [uid, resourceVersion]);
  await core.deleteNamespacedConfigMap({ name: 'goes', namespace: NAMESPACE });
  await make('after');
  await until('what came later', () => seen.includes('add after') && seen.includes('delete goes'));
  assert.equal(seen.filter((event) => event === 'add before').length, 1, `${seen}`);
  assert.deepEqual(informer.list().map((object) => object.metadata.name).sort(), ['after', 'before']);
  stopped = true;
  await informer.stop();
}

/** Asks who started this to kill the server and to start it again. */
async function crash() {
  console.log('crash');
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === 'done') return;
  }
}

await eachSortOfPatchHasItsMediaType();
await anyKindIsMadeReadChangedAndDeleted();
await aWatchIsBrokenOff();
await anInformerOutlivesACrash(crash);
process.exit(0);
