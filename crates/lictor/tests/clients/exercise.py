"""What a program does with a Consul client library, against the agent whose port is the argument.

Runs with py-consul and with python-consul2; both are called `consul`, and differ in some names.
"""
import sys
import threading
import time

import consul

port = int(sys.argv[1])
c = consul.Consul(host="127.0.0.1", port=port)


def eventually(look, what):
    end = time.monotonic() + 30
    while not look():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def raises(kind, do):
    try:
        do()
    except kind as error:
        return str(error)
    raise AssertionError("no " + kind.__name__)


def keys():
    assert c.kv.put("app/a", "one") is True
    assert c.kv.put("app/b", b"\x00\xff", flags=42) is True
    index, entry = c.kv.get("app/b")
    assert entry["Value"] == b"\x00\xff" and entry["Flags"] == 42 and int(index) > 0, entry
    assert c.kv.get("app/none")[1] is None
    assert [e["Key"] for e in c.kv.get("app/", recurse=True)[1]] == ["app/a", "app/b"]
    assert c.kv.get("", keys=True, separator="/")[1] == ["app/"]
    assert c.kv.put("app/a", "two", cas=0) is False
    assert c.kv.put("app/a", "two", cas=c.kv.get("app/a")[1]["ModifyIndex"]) is True
    # A read that waits wakes when its key changes.
    index = c.kv.get("app/a")[0]
    woken = []
    reader = threading.Thread(target=lambda: woken.append(
        consul.Consul(host="127.0.0.1", port=port).kv.get("app/a", index=index, wait="60s")))
    reader.start()
    assert c.kv.put("app/a", "three")
    reader.join(30)
    assert woken and woken[0][1]["Value"] == b"three", woken
    assert c.kv.delete("app/", recurse=True) is True
    assert c.kv.get("app/", recurse=True)[1] is None


def sessions_and_locks():
    first = c.session.create(name="first", ttl=20, behavior="release", lock_delay=0)
    second = c.session.create(lock_delay=0)
    assert c.session.info(first)[1]["Name"] == "first"
    assert {s["ID"] for s in c.session.list()[1]} >= {first, second}
    assert {s["ID"] for s in c.session.node("node1")[1]} >= {first, second}
    assert c.session.renew(first)["ID"] == first
    assert c.kv.put("lock", "mine", acquire=first) is True
    assert c.kv.put("lock", "yours", acquire=second) is False
    assert c.kv.get("lock")[1]["Session"] == first
    assert c.kv.put("lock", "free", release=first) is True
    assert c.kv.put("lock", "yours", acquire=second) is True
    assert c.session.destroy(second) is True
    assert "Session" not in c.kv.get("lock")[1]
    raises(consul.NotFound, lambda: c.session.renew(second))
    raises(consul.ConsulException, lambda: c.kv.put("lock", "x", acquire=second))
    c.session.destroy(first)


def transactions():
    done = c.txn.put([
        {"KV": {"Verb": "set", "Key": "t/a", "Value": "MQ=="}},
        {"KV": {"Verb": "get", "Key": "t/a"}},
    ])
    assert [r["KV"]["Value"] for r in done["Results"]] == [None, "MQ=="], done
    raises(consul.ConsulException, lambda: c.txn.put([
        {"KV": {"Verb": "delete", "Key": "t/a"}}, {"KV": {"Verb": "get", "Key": "t/none"}}]))
    assert c.kv.get("t/a")[1]["Value"] == b"1", "nothing of a failed transaction happens"


def events():
    fired = c.event.fire("deploy", "payload", node="node")
    c.event.fire("deploy", "for others", node="^other$")
    index, seen = c.event.list("deploy")
    # One library decodes the payload, the other leaves it as it came.
    assert [e["ID"] for e in seen] == [fired["ID"]] and seen[0]["Payload"] in (b"payload", "cGF5bG9hZA=="), seen
    assert seen[0]["LTime"] >= 1 and int(index) > 0
    woken = []
    reader = threading.Thread(target=lambda: woken.append(
        consul.Consul(host="127.0.0.1", port=port).event.list("deploy", index=index, wait="60s")))
    reader.start()
    c.event.fire("deploy", "again")
    reader.join(30)
    assert woken and len(woken[0][1]) == 2, woken


def coordinates():
    assert c.coordinate.datacenters()[0]["AreaID"] == "wan"
    eventually(lambda: [n for n in c.coordinate.nodes()[1] if n["Node"] == "node1"], "this node is placed")
    for name, place in (("far", 0.9), ("near", 0.1)):
        assert c.catalog.register(name, "10.0.0.1", service={"Service": "spread", "ID": "spread"})
        put = getattr(c.coordinate, "update", None)
        coordinate = {"Vec": [place] + [0.0] * 7, "Error": 0.1, "Adjustment": 0.0, "Height": 0.001}
        if put:
            put(name, coordinate)
        else:
            import requests
            answer = requests.put("http://127.0.0.1:%d/v1/coordinate/update" % port,
                                  json={"Node": name, "Coord": coordinate})
            assert answer.status_code == 200, answer.text
    nodes = [i["Node"] for i in c.catalog.service("spread", near="_agent")[1]]
    assert nodes == ["near", "far"], nodes
    nodes = [i["Node"]["Node"] for i in c.health.service("spread", near="far")[1]]
    assert nodes == ["far", "near"], nodes
    for name in ("far", "near"):
        assert c.catalog.deregister(name)


def operators():
    raft = c.operator.raft_config()
    assert [s["Node"] for s in raft["Servers"]] == ["node1"] and raft["Servers"][0]["Leader"], raft
    autopilot = getattr(c.operator, "autopilot_configuration", None)
    pilot = autopilot() if autopilot else c.operator.autopilot.configuration()
    assert pilot["MaxTrailingLogs"] == 250, pilot
    health = c.operator.autopilot_health() if autopilot else c.operator.autopilot.health()
    assert health["Healthy"] and health["Servers"][0]["SerfStatus"] == "alive", health


def snapshots():
    c.kv.put("kept", "before")
    c.kv.put("changed", "before")
    # One library takes and gives bytes as get and put, where save and restore are about files.
    by_bytes = hasattr(c.snapshot, "get")
    archive = c.snapshot.get() if by_bytes else c.snapshot.save()
    c.kv.put("changed", "after")
    c.kv.put("new", "after")
    index = c.kv.get("nothing/here")[0]
    woken = []
    reader = threading.Thread(target=lambda: woken.append(
        consul.Consul(host="127.0.0.1", port=port).kv.get("nothing/here", index=max(int(index), 1), wait="60s")))
    reader.start()
    time.sleep(0.2)
    (c.snapshot.put if by_bytes else c.snapshot.restore)(archive)
    reader.join(30)
    assert woken, "a restore wakes every waiting read"
    assert c.kv.get("changed")[1]["Value"] == b"before" and c.kv.get("kept")[1]["Value"] == b"before"
    assert c.kv.get("new")[1] is None
    for key in ("kept", "changed"):
        c.kv.delete(key)


def services():
    assert c.agent.service.register("web", service_id="web1", port=80, tags=["a"], check=consul.Check.ttl("30s"))
    assert c.agent.services()["web1"]["Port"] == 80
    assert c.health.service("web", passing=True)[1] == []
    assert c.agent.check.ttl_pass("service:web1", "fine")
    assert [i["Service"]["ID"] for i in c.health.service("web", passing=True)[1]] == ["web1"]
    assert c.catalog.services()[1]["web"] == ["a"]
    assert c.health.checks("web")[1][0]["Output"] == "fine"
    assert c.agent.maintenance(True, "work") and c.agent.maintenance(False)
    assert c.agent.members()[0]["Name"] == "node1" and c.agent.self()["Config"]["NodeName"] == "node1"
    assert c.status.leader() and c.status.peers()
    assert c.agent.service.deregister("web1")
    assert "web1" not in c.agent.services()


def mesh():
    roots = c.connect.ca.roots() if hasattr(c.connect, "ca") else c.agent.connect.root_certificates()
    assert roots["Roots"][0]["Active"], roots
    # The other library asks for a path without its version, which no agent has.
    if hasattr(c.agent.connect, "ca"):
        leaf = c.agent.connect.ca.leaf("web")
        assert leaf["Service"] == "web" and "BEGIN CERTIFICATE" in leaf["CertPEM"]


for part in (keys, sessions_and_locks, transactions, events, coordinates, operators, services, mesh, snapshots):
    try:
        part()
    except BaseException:
        print("failed: " + part.__name__, file=sys.stderr)
        raise
    print("done: " + part.__name__)
