// Calls every method of npm's consul, against an agent without access control (the first port) and one with it (the second
// port, whose management token is the third argument). The fourth is where the library is installed. Fails when a method
// was not called.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [plainPort, aclPort, root, place] = process.argv.slice(2);
const Consul = createRequire(`${place}/package.json`)("consul");

const known = new Set();
const called = new Set();

/** The same object, which notes the calls of its methods. */
function watched(part) {
  const name = part.constructor.name;
  for (const method of Object.getOwnPropertyNames(Object.getPrototypeOf(part))) {
    if (method !== "constructor" && !method.startsWith("_") && typeof part[method] === "function") {
      known.add(`${name}.${method}`);
    }
  }
  return new Proxy(part, {
    get(target, key) {
      const value = target[key];
      if (typeof value === "function" && known.has(`${name}.${key}`)) {
        called.add(`${name}.${key}`);
        return value.bind(target);
      }
      const isPart = value && typeof value === "object" && "consul" in value;
      return isPart ? watched(value) : value;
    },
  });
}

const c = watched(new Consul({ host: "127.0.0.1", port: Number(plainPort) }));
const a = watched(new Consul({ host: "127.0.0.1", port: Number(aclPort), defaults: { token: root } }));

const parts = {
  async access() {
    assert((await a.acl.bootstrap()).ID);
    assert.equal((await a.acl.replication()).Enabled, false);
    const { ID: id } = await a.acl.legacy.create({ name: "old", type: "client", rules: 'key "" { policy = "read" }' });
    await a.acl.legacy.update({ id, name: "older", type: "client", rules: 'key "a" { policy = "write" }' });
    assert.equal((await a.acl.legacy.info(id)).Name, "older");
    assert.equal((await a.acl.legacy.get(id)).Name, "older");
    const { ID: copy } = await a.acl.legacy.clone(id);
    assert((await a.acl.legacy.list()).some((token) => token.ID === copy));
    assert.equal(await a.kv.set({ key: "a/b", value: "1", token: copy }), true);
    await assert.rejects(a.kv.set({ key: "b", value: "1", token: copy }), (error) => error.response.statusCode === 403);
    await a.acl.legacy.destroy(copy);
    await a.acl.legacy.destroy(id);
  },

  async agents() {
    assert.equal((await c.agent.self()).Config.NodeName, "node1");
    assert.equal((await c.agent.members())[0].Name, "node1");
    await c.agent.service.register({ name: "web", id: "web1", port: 80, check: { ttl: "30s" } });
    assert("web1" in (await c.agent.services()) && "web1" in (await c.agent.service.list()));
    await c.agent.check.register({ name: "disk", id: "disk", ttl: "30s" });
    for (const [report, status] of [["warn", "warning"], ["fail", "critical"], ["pass", "passing"]]) {
      await c.agent.check[report]({ id: "disk", note: "because" });
      assert.equal((await c.agent.checks()).disk.Status, status);
      assert.equal((await c.agent.check.list()).disk.Output, "because");
    }
    await c.agent.check.deregister("disk");
    await c.agent.service.maintenance({ id: "web1", enable: true, reason: "work" });
    assert("_service_maintenance:web1" in (await c.agent.checks()));
    await c.agent.service.maintenance({ id: "web1", enable: false });
    await c.agent.maintenance({ enable: true });
    await c.agent.maintenance({ enable: false });
    await assert.rejects(c.agent.join("127.0.0.1"));
    await c.agent.forceLeave("nobody");
    await c.agent.reload();
    await c.agent.service.deregister("web1");
    assert((await c.status.leader()).length > 0 && (await c.status.peers()).length === 1);
  },

  async catalogs() {
    assert.deepEqual(await c.catalog.datacenters(), ["dc1"]);
    await c.catalog.register({
      node: "outside",
      address: "10.0.0.9",
      service: { service: "ext", id: "ext1", port: 90, tags: ["t"] },
      check: { node: "outside", name: "alive", checkid: "alive", status: "passing", serviceid: "ext1" },
    });
    assert((await c.catalog.nodes()).some((node) => node.Node === "outside"));
    assert((await c.catalog.node.list()).some((node) => node.Node === "outside"));
    assert.equal((await c.catalog.node.services("outside")).Services.ext1.Port, 90);
    assert.deepEqual((await c.catalog.services()).ext, ["t"]);
    assert.deepEqual((await c.catalog.service.list()).ext, ["t"]);
    assert.equal((await c.catalog.service.nodes("ext"))[0].ServicePort, 90);
    assert.deepEqual(await c.catalog.connect.nodes("ext"), []);
    assert.deepEqual((await c.health.checks("ext")).map((check) => check.Name), ["alive"]);
    assert((await c.health.node("outside")).some((check) => check.Name === "alive"));
    assert((await c.health.state("passing")).some((check) => check.Name === "alive"));
    assert.equal((await c.health.service({ service: "ext", passing: true }))[0].Service.ID, "ext1");
    await c.catalog.deregister({ node: "outside", serviceid: "ext1" });
    await c.catalog.deregister("outside");
  },

  async queries() {
    for (const [node, tag] of [["q1", "v1"], ["q2", "v2"]]) {
      const service = { service: "asked", id: "asked", tags: [tag] };
      await c.catalog.register({ node, address: "10.0.0.1", service });
    }
    const { ID: query } = await c.query.create({ name: "by-tag", service: { service: "asked", tags: ["v1"] } });
    assert.equal((await c.query.get(query)).Name, "by-tag");
    assert.deepEqual((await c.query.list()).map((one) => one.ID), [query]);
    const nodes = async (asked) => (await c.query.execute(asked)).Nodes.map((one) => one.Node.Node);
    assert.deepEqual(await nodes(query), ["q1"]);
    await c.query.update({ query, name: "by-tag", service: { service: "asked", tags: ["!v1"] } });
    assert.deepEqual(await nodes("by-tag"), ["q2"]);
    // The library takes the first of a list, and an explanation is none.
    await c.query.explain("by-tag");
    await c.query.destroy(query);
    assert.deepEqual(await c.query.list(), []);
  },

  async keys() {
    assert.equal(await c.kv.set("k/a", "v"), true);
    assert.equal((await c.kv.get("k/a")).Value, "v");
    assert.deepEqual(await c.kv.keys("k/"), ["k/a"]);
    await c.kv.del("k/a");
    await c.kv.delete({ key: "k/", recurse: true });
    assert.equal((await c.transaction.create([{ KV: { Verb: "set", Key: "t", Value: "MQ==" } }])).Results.length, 1);
    const { ID: id } = await c.session.create({ ttl: "20s", lockdelay: "0s" });
    await c.session.renew(id);
    assert((await c.session.info(id)) && (await c.session.get(id)));
    assert.equal((await c.session.list()).length, 1);
    assert.equal((await c.session.node("node1")).length, 1);
    await c.session.destroy(id);
    const fired = await c.event.fire({ name: "e", payload: "x" });
    assert.equal((await c.event.list("e"))[0].ID, fired.ID);
  },

  async watches() {
    const watch = watched(c.watch({ method: c.kv.get, options: { key: "watched", wait: "60s" } }));
    const seen = new Promise((done) => watch.on("change", done));
    await c.kv.set("watched", "one");
    await seen;
    assert(watch.isRunning() && watch.updateTime() > 0);
    watch.end();
    c.destroy();
  },
};

for (const [name, part] of Object.entries(parts)) {
  try {
    await part();
  } catch (error) {
    console.error(`failed: ${name}`);
    throw error;
  }
  console.log(`done: ${name}`);
}
// What an emitter of events has of its own is no method of the API.
const missed = [...known].filter((method) => !called.has(method) && !method.startsWith("EventEmitter."));
assert.deepEqual(missed, [], "never called");
console.log(`${called.size} methods called`);
