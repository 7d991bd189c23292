// What a program does with npm's consul, against the agent whose port is the first argument. The second is where the
// library is installed.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [port, place] = process.argv.slice(2);
const Consul = createRequire(`${place}/package.json`)("consul");
const c = new Consul({ host: "127.0.0.1", port: Number(port) });

async function eventually(look, what) {
  const end = Date.now() + 30000;
  while (!(await look())) {
    assert(Date.now() < end, what);
    await new Promise((done) => setTimeout(done, 20));
  }
}

const parts = {
  async keys() {
    assert.equal(await c.kv.set("app/a", "one"), true);
    assert.equal((await c.kv.get("app/a")).Value, "one");
    assert.equal(await c.kv.get("app/none"), undefined);
    assert.deepEqual(await c.kv.keys("app/"), ["app/a"]);
    // The library gives nothing for false.
    assert(!(await c.kv.set({ key: "app/a", value: "two", cas: "0" })));
    assert.equal((await c.kv.get("app/a")).Value, "one");
    await c.kv.del({ key: "app/", recurse: true });
    await assert.rejects(c.kv.keys("app/"), /not found/i);
  },

  async watches() {
    const seen = [];
    const watch = c.watch({ method: c.kv.get, options: { key: "watched", wait: "60s" }, backoffMax: 1000 });
    const failures = [];
    watch.on("change", (data) => seen.push(data?.Value));
    watch.on("error", (error) => failures.push(error));
    await c.kv.set("watched", "one");
    await eventually(() => seen.includes("one"), "the first value is seen");
    await c.kv.set("watched", "two");
    await eventually(() => seen.includes("two"), "the second value is seen");
    watch.end();
    await c.kv.del("watched");
  },

  async sessions() {
    const { ID: id } = await c.session.create({ ttl: "20s", lockdelay: "0s" });
    assert.equal((await c.session.get(id))[0]?.ID ?? (await c.session.get(id)).ID, id);
    assert.equal(await c.kv.set({ key: "lock", value: "mine", acquire: id }), true);
    await c.session.renew(id);
    assert((await c.session.list()).some((session) => session.ID === id));
    assert((await c.session.node("node1")).some((session) => session.ID === id));
    await c.session.destroy(id);
    assert.equal((await c.kv.get("lock")).Session, undefined);
  },

  async transactions() {
    const set = { KV: { Verb: "set", Key: "t", Value: "MQ==" } };
    assert.equal((await c.transaction.create([set])).Results.length, 1);
    const missing = { KV: { Verb: "get", Key: "none" } };
    await assert.rejects(c.transaction.create([missing]), (error) => error.response.statusCode === 409);
  },

  async events() {
    const fired = await c.event.fire({ name: "deploy-npm", payload: "now" });
    const seen = await c.event.list("deploy-npm");
    assert.deepEqual(seen.map((event) => [event.ID, event.Payload]), [[fired.ID, "now"]]);
  },

  async services() {
    await c.agent.service.register({ name: "npm", id: "npm1", port: 80, tags: ["a"], check: { ttl: "30s" } });
    assert.equal((await c.agent.services()).npm1.Port, 80);
    assert.deepEqual(await c.health.service({ service: "npm", passing: true }), []);
    await c.agent.check.pass("service:npm1");
    assert.equal((await c.health.service({ service: "npm", passing: true }))[0].Service.ID, "npm1");
    assert.deepEqual((await c.catalog.service.list()).npm, ["a"]);
    assert.equal((await c.catalog.service.nodes("npm"))[0].ServiceID, "npm1");
    await c.agent.service.deregister("npm1");
    assert.equal((await c.agent.members())[0].Name, "node1");
    assert((await c.status.leader()).length > 0);
    assert.deepEqual(await c.catalog.datacenters(), ["dc1"]);
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
