"""Calls every method that a Consul client library has, against two agents: one without access control, one with it whose
management token is the third argument. What exists only in later versions of the original is called too, and must fail at
once with an error that the library understands.

Runs with py-consul and with python-consul2, and fails when either has a method that was not called.
"""
import inspect
import json
import sys
import threading
import time

import consul
import requests

plain_port, acl_port, root = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
CALLED, KNOWN = set(), set()
# The status of each answer, as it came: what a library makes of it is its own business.
STATUSES = []
send = requests.Session.send


def noted(*args, **kwargs):
    answer = send(*args, **kwargs)
    STATUSES.append(answer.status_code)
    return answer


requests.Session.send = noted


def watched(client):
    """Notes which methods are called; the same object under two names counts as one."""
    seen = set()

    def walk(part, path, depth=0):
        if id(part) in seen or depth > 3:
            return
        seen.add(id(part))
        for name, member in sorted(inspect.getmembers(part)):
            if name.startswith("_") or name == "http" or inspect.isclass(member) or (name == "agent" and depth):
                continue
            if inspect.ismethod(member):
                key = ".".join([type(member.__self__).__qualname__, name])
                KNOWN.add(key)

                def noting(*args, member=member, key=key, **kwargs):
                    CALLED.add(key)
                    return member(*args, **kwargs)

                setattr(part, name, noting)
            elif getattr(type(member), "__module__", "").startswith("consul"):
                walk(member, path + "." + name, depth + 1)

    walk(client, "c")
    return client


c = watched(consul.Consul(host="127.0.0.1", port=plain_port))
a = watched(consul.Consul(host="127.0.0.1", port=acl_port, token=root))
new_style = hasattr(c.acl, "token")


def fails(do, kind=consul.ConsulException):
    try:
        answer = do()
    except kind as error:
        return str(error)
    # What is not there at all is nothing, for methods that say so of 404.
    assert answer in (None, False, (None, None)), answer
    return ""


def has(part, *names):
    """The first of these that a library has."""
    for name in names:
        found = getattr(part, name, None)
        if found is not None:
            return found
    return None


def access():
    tokens, policies = a.acl.tokens, has(a.acl, "policies", "policy")
    assert a.acl.bootstrap()["SecretID"] and "no longer allowed" in fails(lambda: a.acl.bootstrap()), "once"
    rules = {"key_prefix": {"": {"policy": "read"}}}
    made = policies.create("keys", description="reads keys", rules=rules if new_style else json.dumps(rules))
    assert made["Name"] == "keys" and "key_prefix" in made["Rules"], made
    read = policies.read if new_style else policies.get
    assert read(made["ID"])["Description"] == "reads keys"
    assert policies.update(made["ID"], "keys", description="reads all keys", rules=made["Rules"] if not new_style else rules)["Description"] == "reads all keys"
    assert {p["Name"] for p in policies.list()} == {"keys", "global-management"}

    if new_style:
        token = tokens.create(description="t", policies_name=["keys"])
        assert tokens.read(token["AccessorID"])["Policies"][0]["Name"] == "keys"
        changed = tokens.update(token["AccessorID"], description="other", policies_id=[made["ID"]])
        assert changed["Description"] == "other", changed
        clone = tokens.clone(token["AccessorID"], description="again")
        own = tokens.read_self(token=token["SecretID"])
    else:
        token = tokens.create({"Description": "t", "Policies": [{"Name": "keys"}]})
        assert tokens.get(token["AccessorID"])["Policies"][0]["Name"] == "keys"
        changed = tokens.update({"Description": "other", "Policies": [{"ID": made["ID"]}]}, token["AccessorID"])
        assert changed["Description"] == "other", changed
        clone = tokens.clone(description="again", accessor_id=token["AccessorID"])
        own = tokens.self(token=token["SecretID"])
        assert a.acl.self(token=token["SecretID"])["AccessorID"] == token["AccessorID"]
        assert a.acl.replication()["Enabled"] is False
    assert own["AccessorID"] == token["AccessorID"] and clone["Description"] == "again", (own, clone)
    # The right holds for what it says and for nothing else.
    assert a.kv.put("secret", "x") is True
    assert a.kv.get("secret", token=token["SecretID"])[1]["Value"] == b"x"
    fails(lambda: a.kv.put("secret", "y", token=token["SecretID"]), consul.ACLPermissionDenied)
    assert {t["AccessorID"] for t in tokens.list()} >= {token["AccessorID"], clone["AccessorID"]}
    assert [t["AccessorID"] for t in tokens.list(policy=made["ID"])], "tokens of a policy"
    assert tokens.delete(clone["AccessorID"]) is True
    assert policies.delete(made["ID"]) is True
    assert tokens.delete(token["AccessorID"]) is True


def older_access():
    older = getattr(a.acl, "legacy_tokens", None)
    if older is None:
        return
    for part in (older, a.acl):
        id = part.create(name="old", type="client", rules='key "" { policy = "read" }')
        id = id["ID"] if isinstance(id, dict) else id
        assert part.info(id)["Name"] == "old"
        part.update(id, name="older", type="client", rules='key "a" { policy = "write" }')
        assert part.info(id)["Name"] == "older"
        copy = part.clone(id)
        copy = copy["ID"] if isinstance(copy, dict) else copy
        assert {id, copy} <= {t["ID"] for t in part.list()}
        accessor = next(t["AccessorID"] for t in a.acl.tokens.list() if t.get("Description") == "older")
        fails(lambda: a.acl.get_translate(accessor), Exception)  # reads rules as JSON
        part.destroy(id), part.destroy(copy)
    assert b"key_prefix" in a.acl.create_translate('key "a" { policy = "read" }')


def newer():
    """Not of 1.4: roles, authentication methods, configuration entries and what came with them."""
    acl = a.acl
    if new_style:
        calls = [
            lambda: acl.auth_method.create("m", "jwt"), lambda: acl.auth_method.read("m"), lambda: acl.auth_method.list(),
            lambda: acl.auth_method.update("m", "jwt"), lambda: acl.auth_method.delete("m"),
            lambda: acl.binding_rule.create("m", "service", "s"), lambda: acl.binding_rule.read("x"),
            lambda: acl.binding_rule.list(), lambda: acl.binding_rule.update("x", "m", "service", "s"),
            lambda: acl.binding_rule.delete("x"), lambda: acl.login("m", "t"), lambda: acl.logout("t"),
            lambda: acl.role.create("r"), lambda: acl.role.read("x"), lambda: acl.role.read_by_name("r"),
            lambda: acl.role.list(), lambda: acl.role.update("x", "r"), lambda: acl.role.delete("x"),
            lambda: acl.templated_policies.list(), lambda: acl.templated_policies.read("x"),
            lambda: acl.templated_policies.preview("x"), lambda: c.catalog.gateway_services("g"),
            lambda: c.config.get("service-defaults", "web"), lambda: c.config.list("service-defaults"),
            lambda: c.config.set("service-defaults", "web", {}), lambda: c.config.delete("service-defaults", "web"),
            lambda: c.discovery_chain.get("web"), lambda: c.health.ingress("web"), lambda: c.operator.usage(),
            lambda: c.operator.raft_transfer_leader(),
            lambda: a.agent.token.set_agent_recovery("x"),
            lambda: a.agent.token.set_config_file_service_registration("x"),
        ]
    else:
        calls = [
            lambda: acl.auth_method.create({"Name": "m"}), lambda: acl.auth_method.get("m"),
            lambda: acl.auth_method.list(), lambda: acl.auth_method.update({"Name": "m"}, "m"),
            lambda: acl.auth_method.delete("m"), lambda: acl.binding_rule.create({"AuthMethod": "m"}),
            lambda: acl.binding_rule.get("x"), lambda: acl.binding_rule.list(),
            lambda: acl.binding_rule.update({"AuthMethod": "m"}, "x"), lambda: acl.binding_rule.delete("x"),
            lambda: acl.login("m", "t"), lambda: acl.logout(), lambda: acl.roles.create({"Name": "r"}),
            lambda: acl.roles.get("x"), lambda: acl.roles.get_by_name("r"), lambda: acl.roles.list(),
            lambda: acl.roles.update({"Name": "r"}, "x"), lambda: acl.roles.delete("x"),
            lambda: c.config.put({"Kind": "service-defaults"}), lambda: c.config.get("service-defaults", "web"),
            lambda: c.config.list("service-defaults"), lambda: c.config.delete("service-defaults", "web"),
        ]
    if new_style:
        # Their path is that of an intention whose id is "exact", of which there is none.
        intentions = c.connect.intentions
        for call in (lambda: intentions.upsert("web", "db", action="allow"), lambda: intentions.read("web", "db"),
                     lambda: intentions.delete("web", "db")):
            STATUSES.clear()
            why = fails(call, Exception)
            assert STATUSES == [500] and "exact" in why or "UUID" in why, (STATUSES, why)
    for number, call in enumerate(calls):
        STATUSES.clear()
        # One library reads an empty 404 as JSON, which is its own mistake.
        why = fails(call, Exception)
        assert STATUSES and set(STATUSES) <= {404, 405}, (number, STATUSES, why)


def agents():
    assert c.agent.self()["Config"]["NodeName"] == "node1"
    assert [m["Name"] for m in c.agent.members()] == ["node1"] and c.agent.members(wan=True)
    assert c.agent.service.register("web", service_id="web1", port=80, tags=["a"], check=consul.Check.ttl("30s"))
    assert c.agent.services()["web1"]["Port"] == 80 and "service:web1" in c.agent.checks()
    assert c.agent.check.register("disk", check=consul.Check.ttl("30s"), check_id="disk", notes="n")
    for report, status in ((c.agent.check.ttl_warn, "warning"), (c.agent.check.ttl_fail, "critical"),
                           (c.agent.check.ttl_pass, "passing")):
        assert report("disk", "because")
        assert c.agent.checks()["disk"]["Status"] == status and c.agent.checks()["disk"]["Output"] == "because"
    assert [x["CheckID"] for x in c.health.node("node1")[1] if x["CheckID"] == "disk"]
    assert c.agent.check.deregister("disk")
    assert c.agent.service.maintenance("web1", True, "work")
    assert "_service_maintenance:web1" in c.agent.checks()
    assert c.agent.service.maintenance("web1", False)
    assert c.agent.maintenance(True, "work") and c.agent.maintenance(False)
    fails(lambda: c.agent.join("127.0.0.1"))
    c.agent.force_leave("nobody")
    # Prepared for an identity whose roots nobody here has: refused with a reason, not an error.
    uri = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web"
    if new_style:
        # With PUT, as later versions take it.
        assert "405" in fails(lambda: c.agent.connect.authorize("db", uri, "01"))
    else:
        answer = c.agent.connect.authorize("db", uri, "01")
        assert answer["Authorized"] in (True, False) and answer["Reason"], answer
    if new_style:
        assert c.agent.service_definition("web1")["ID"] == "web1"
        assert c.agent.connect.ca.roots()["Roots"] and c.agent.connect.ca.leaf("web")["CertPEM"]
        assert "Gauges" in c.agent.metrics()
        fails(lambda: c.agent.metrics(format_prometheus=True), Exception)
        c.agent.reload()
        token = a.acl.token.create(description="for the agent")["SecretID"]
        for set_one in (a.agent.token.set_default, a.agent.token.set_agent, a.agent.token.set_replication):
            assert set_one(token) is True
            assert set_one("") is True
        assert a.agent.token.set("default", "") is True
        assert c.prepare_headers("t"), "headers"
    else:
        assert c.agent.connect.root_certificates()["Roots"]
        # Asks for a path without its version, which no agent has.
        fails(lambda: c.agent.connect.leaf_certificates("web"), Exception)
    assert c.agent.service.deregister("web1")
    assert c.status.leader() and c.status.peers()


def catalogs():
    assert c.catalog.datacenters() == ["dc1"]
    service = {"Service": "ext", "ID": "ext1", "Port": 90, "Tags": ["t"]}
    assert c.catalog.register("outside", "10.0.0.9", service=service, node_meta={"rack": "a"},
                              check={"Name": "alive", "Status": "passing", "ServiceID": "ext1"})
    assert {n["Node"] for n in c.catalog.nodes()[1]} == {"node1", "outside"}
    # One library puts the metadata of the node into the address of the request, where nobody reads it.
    assert [n["Node"] for n in c.catalog.nodes(node_meta={"rack": "a"})[1]] == ([] if new_style else ["outside"])
    assert c.catalog.services()[1]["ext"] == ["t"]
    assert c.catalog.service("ext", tag="t")[1][0]["ServicePort"] == 90
    assert c.catalog.node("outside")[1]["Services"]["ext1"]["Port"] == 90
    assert c.health.service("ext", passing=True)[1][0]["Checks"][0]["Name"] == "alive"
    assert [x["Name"] for x in c.health.checks("ext")[1]] == ["alive"]
    assert "alive" in {x["Name"] for x in c.health.state("passing")[1]}
    if new_style:
        assert c.catalog.connect("ext")[1] == [] and c.health.connect("ext")[1] == []
        assert c.coordinate.node("node1")[1][0]["Node"] == "node1"
        c.coordinate.update("outside", {"Vec": [0.1] + [0.0] * 7, "Error": 0.1, "Adjustment": 0.0, "Height": 0.001})
    assert c.coordinate.datacenters() and c.coordinate.nodes()[1]
    assert c.catalog.deregister("outside", check_id="alive")
    assert c.catalog.deregister("outside", service_id="ext1")
    assert c.catalog.deregister("outside")


def queries():
    c.catalog.register("q1", "10.0.0.1", service={"Service": "asked", "ID": "asked", "Tags": ["v1"]})
    c.catalog.register("q2", "10.0.0.2", service={"Service": "asked", "ID": "asked", "Tags": ["v2"]})
    made = c.query.create("asked", name="by-tag", tags=["v1"], onlypassing=True, nearestn=1, datacenters=["dc9"], ttl="10s")
    found = c.query.get(made["ID"])
    found = found[0] if isinstance(found, list) else found
    assert found["Name"] == "by-tag" and found["Service"]["Tags"] == ["v1"] and found["DNS"]["TTL"] == "10s", found
    assert [q["ID"] for q in c.query.list()] == [made["ID"]]
    # The libraries make a template of every query that has a name, and those have no id to be asked by.
    answer = c.query.execute("by-tag")
    assert [n["Node"]["Node"] for n in answer["Nodes"]] == ["q1"] and answer["Service"] == "asked", answer
    # One of them expects an answer to an update, which has none.
    fails_or_works(lambda: c.query.update(made["ID"], service="asked", name="by-tag", tags=["!v1"]))
    assert [n["Node"]["Node"] for n in c.query.execute("by-tag", limit=5, near="_agent")["Nodes"]] == ["q2"]
    # A template, and what it comes to.
    whole = c.query.create("${name.suffix}", name="for-", regexp=None)
    c.query.delete(whole["ID"])
    assert c.query.explain("by-tag")["Query"]["Name"] == "by-tag"
    assert c.query.delete(made["ID"]) is True
    assert c.query.list() == []
    for node in ("q1", "q2"):
        c.catalog.deregister(node)


def keys_sessions_events():
    assert c.kv.put("k", "v") and c.kv.get("k")[1]["Value"] == b"v" and c.kv.delete("k")
    id = c.session.create(name="s", ttl=20, lock_delay=0)
    assert c.session.info(id)[1]["Name"] == "s" and c.session.renew(id)["ID"] == id
    assert [s["ID"] for s in c.session.list()[1]] == [id] == [s["ID"] for s in c.session.node("node1")[1]]
    assert c.session.destroy(id) is True
    assert c.txn.put([{"KV": {"Verb": "set", "Key": "t", "Value": "MQ=="}}])["Results"]
    assert c.event.fire("e", "x")["ID"] and c.event.list("e")[1]


def mesh():
    # One library has later versions' paths for intentions, which are tried among what is newer.
    if new_style:
        made = c.http.post(lambda r: json.loads(r.body), "/v1/connect/intentions",
                           data=json.dumps({"SourceName": "web", "DestinationName": "db", "Action": "deny"}))
        assert [i["ID"] for i in c.connect.intentions.list()] == [made["ID"]]
        assert c.connect.intentions.check("web", "db") is False and c.connect.intentions.check("web", "x") is True
        assert c.connect.intentions.match("source", "web")["web"][0]["ID"] == made["ID"]
        assert c.connect.ca.roots()["Roots"]
        before = c.connect.ca.configuration()
        assert before["Provider"] == "consul", before
        assert c.connect.ca.update_configuration("consul", {"LeafCertTTL": "71h"})
        assert c.connect.ca.configuration()["Config"]["LeafCertTTL"] == "71h"
        return
    intentions = c.connect.intentions
    made = intentions.create("web", "db", "consul", "deny", description="d", meta={"a": "b"})["ID"]
    assert intentions.get(made)["Action"] == "deny" and [i["ID"] for i in intentions.list()] == [made]
    assert intentions.check("web", "db")["Allowed"] is False
    assert intentions.list_match("source", "web")["web"][0]["ID"] == made
    intentions.put(made, source_name="web", destination_name="db", source_type="consul", action="allow")
    assert intentions.check("web", "db")["Allowed"] is True
    intentions.delete(made)
    assert intentions.list() == []
    assert c.connect.certificates.list()["Roots"]
    assert c.connect.certificates.current()["Provider"] == "consul"
    c.connect.certificates.put({"LeafCertTTL": "71h"}, "consul")
    assert c.connect.certificates.current()["Config"]["LeafCertTTL"] == "71h"


def operators(tmp):
    o = c.operator
    assert o.raft_config()["Servers"][0]["Leader"]
    if new_style:
        assert o.autopilot_configuration()["MaxTrailingLogs"] == 250 and o.autopilot_health()["Healthy"]
        # An update has no answer, which both libraries expect.
        fails_or_works(lambda: o.update_autopilot_configuration(max_trailing_logs=300))
        assert o.autopilot_configuration()["MaxTrailingLogs"] == 300
        fails(lambda: o.raft_remove_peer(peer_id="nobody"))
        for keyring in (lambda: o.keyring_list(), lambda: o.keyring_install("eA=="), lambda: o.keyring_use("eA=="),
                        lambda: o.keyring_remove("eA==")):
            assert "encryption" in fails(keyring), "a keyring of nothing"
        archive = c.snapshot.save()
        c.kv.put("after", "x")
        assert c.snapshot.restore(archive) and c.kv.get("after")[1] is None
        return
    assert o.raft.configuration()["Servers"] and o.autopilot.configuration()["MaxTrailingLogs"] == 250
    assert o.autopilot.health()["Healthy"]
    fails_or_works(lambda: o.autopilot.update({"MaxTrailingLogs": 300}))
    assert o.autopilot.configuration()["MaxTrailingLogs"] == 300
    fails(lambda: o.raft.delete(raft_id="nobody"))
    for keyring in (lambda: o.keyring.list(), lambda: o.keyring.create("eA=="), lambda: o.keyring.update("eA=="),
                    lambda: o.keyring.delete("eA==")):
        fails(keyring, Exception)
    archive = c.snapshot.get()
    c.kv.put("after", "x")
    c.snapshot.put(archive)
    assert c.kv.get("after")[1] is None
    # The other pair keeps the archive in a file.
    for do in (lambda: c.snapshot.save(tmp + "/archive"), lambda: c.snapshot.restore(tmp + "/archive")):
        fails_or_works(do)


def fails_or_works(do):
    """For methods that are wrong in the library itself, whatever the agent says."""
    try:
        do()
    except Exception:
        pass


def streams_and_ends():
    if not new_style:
        return
    # The library reads the log to its end, which comes when the agent leaves.
    reader = threading.Thread(target=lambda: fails_or_works(lambda: c.agent.monitor(loglevel="info")), daemon=True)
    reader.start()
    c.kv.put("kept", "x")
    c.agent.service.register("kept", port=1)
    assert c.agent.leave()
    # Nobody answers any more, and what follows a start of the same agent is looked at by who started it.
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            c.status.leader()
        except requests.exceptions.ConnectionError:
            break
        except consul.ConsulException:
            pass  # it is on its way out
        time.sleep(0.05)
    else:
        raise AssertionError("the agent has not left")
    print("left")


tmp = sys.argv[4]
for part in (access, older_access, newer, agents, catalogs, queries, keys_sessions_events, mesh, lambda: operators(tmp),
             streams_and_ends):
    try:
        part()
    except BaseException:
        print("failed: " + part.__name__, file=sys.stderr)
        raise
    print("done: " + part.__name__)

# What makes connections, not requests.
LOCAL = {"Consul.http_connect", "Consul.prepare_headers", "Consul.close"}
missed = KNOWN - CALLED - LOCAL
assert not missed, "never called: " + ", ".join(sorted(missed))
print("%d methods called" % len(CALLED))
