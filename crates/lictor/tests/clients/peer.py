"""A mesh program that shares nothing with lictor but the HTTP API and the wire: OpenSSL instead of rustls.

    peer.py proxy                      a custom proxy, told who it is by CONNECT_PROXY_ID and CONNECT_PROXY_TOKEN
    peer.py native SERVICE PORT        a native service that sends back what it gets
    peer.py dial SERVICE NAME PORT...  a native client: what comes in at PORT goes to NAME, as SERVICE

    --report=DIR    write to a file there what is trusted and shown, at each answer of the agent
    --bare          show the own certificate alone, without what old roots have signed for the new one
    --once          read the roots once, and never learn of another one

The agent is the one of CONSUL_HTTP_ADDR. Roots and leaf are kept current by blocking reads, and each handshake takes the
latest, as the library for native programs does.
"""

import base64

import json
import os
import random
import re
import select
import socket
import ssl
import sys
import tempfile
import threading
import time
import urllib.request

AGENT = "http://" + os.environ["CONSUL_HTTP_ADDR"].removeprefix("http://")
TOKEN = os.environ.get("CONNECT_PROXY_TOKEN", "")
OPTIONS = dict(word[2:].partition("=")[::2] for word in sys.argv if word.startswith("--"))
WORDS = [word for word in sys.argv[1:] if not word.startswith("--")]
END = "-----END CERTIFICATE-----\n"


def call(path, body=None):
    """One request: its answer and its index."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(AGENT + path, data, {"X-Consul-Token": TOKEN} if TOKEN else {})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer), answer.headers.get("X-Consul-Index", "0")


class Identity:
    """Roots and leaf of one service, each followed by a thread; contexts are made anew when either changes."""

    def __init__(self, service):
        self.service = service
        self.changed = threading.Condition()
        self.roots = self.leaf = self.contexts = None
        if "once" in OPTIONS:
            self.roots, _ = call("/v1/agent/connect/ca/roots")
        else:
            self.follow("/v1/agent/connect/ca/roots?", "roots")
        self.follow(f"/v1/agent/connect/ca/leaf/{service}?", "leaf")

    def follow(self, path, name):
        threading.Thread(target=self.keep, args=(path, name), daemon=True).start()

    def keep(self, path, name):
        index = "0"
        while True:
            asked = index
            try:
                answer, index = call(f"{path}index={index}&wait=60s")
            except OSError as error:
                print(f"{path}: {error}", file=sys.stderr, flush=True)
                time.sleep(0.2)
                continue
            with self.changed:
                setattr(self, name, answer)
                if self.roots and self.leaf:
                    self.contexts = self.build()
                    self.report(name, asked)
                    self.changed.notify_all()

    def build(self):
        roots = "\n".join(root["RootCert"] for root in self.roots["Roots"])
        made = []
        # The library takes keys from files alone. This one is there for that moment.
        with tempfile.NamedTemporaryFile("w", encoding="ascii", prefix="lictor-test-peer-") as pem:
            pem.write(self.shown() + self.leaf["PrivateKeyPEM"])
            pem.flush()
            for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
                context = ssl.SSLContext(side)
                # Names in the mesh are URIs, which are compared below.
                context.check_hostname = False
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=roots)
                context.load_cert_chain(pem.name)
                made.append(context)
        return made

    def shown(self):
        chain = self.leaf["CertPEM"]
        return chain[:chain.index(END) + len(END)] if "bare" in OPTIONS else chain

    def report(self, name, asked):
        """A line: what came, for which index was asked, and what handshakes of either side use from now on."""
        if "report" not in OPTIONS:
            return
        trusted = [{base64.b64encode(root).decode() for root in context.get_ca_certs(binary_form=True)}
                   for context in self.contexts]
        line = {"came": name, "asked": int(asked), "trusted": sorted(trusted[0] & trusted[1]), "leaf": self.shown()}
        os.makedirs(OPTIONS["report"], exist_ok=True)
        with open(os.path.join(OPTIONS["report"], self.service), "a", encoding="ascii") as file:
            file.write(json.dumps(line) + "\n")

    def latest(self, side):
        with self.changed:
            self.changed.wait_for(lambda: self.contexts)
            return self.contexts[side]


def uri(tls):
    return next(value for kind, value in tls.getpeercert()["subjectAltName"] if kind == "URI")


def accepted(identity, plain):
    """The handshake as a server, and whether intentions let the client in."""
    plain.settimeout(30)
    tls = identity.latest(0).wrap_socket(plain, server_side=True)
    serial = tls.getpeercert()["serialNumber"]
    asked = {"Target": identity.service, "ClientCertURI": uri(tls),
             "ClientCertSerial": ":".join(re.findall("..", serial.lower()))}
    verdict, _ = call("/v1/agent/connect/authorize", asked)
    if not verdict["Authorized"]:
        raise OSError(f"denied: {verdict['Reason']}")
    return tls


def dialled(identity, name):
    """A connection to an instance of a service that is who discovery says it is."""
    found, _ = call(f"/v1/health/connect/{name}?passing")
    entry = random.choice(found)
    service = entry["Service"]
    address = (service["Address"] or entry["Node"]["Address"], service["Port"])
    tls = identity.latest(1).wrap_socket(socket.create_connection(address, timeout=30))
    wanted = f"/ns/default/dc/{entry['Node']['Datacenter']}/svc/{name}"
    if not uri(tls).endswith(wanted):
        raise OSError(f"{uri(tls)} is not {wanted}")
    return tls


def pump(one, other):
    """Moves bytes both ways until either side ends."""
    one.settimeout(None)
    other.settimeout(None)
    across = {one: other, other: one}
    while True:
        held = [side for side in across if isinstance(side, ssl.SSLSocket) and side.pending()]
        for side in held or select.select(list(across), [], [])[0]:
            # What came may be a ticket for a later session: then the other side may speak, not wait for what never comes.
            side.setblocking(False)
            try:
                data = side.recv(16384)
            except (ssl.SSLWantReadError, BlockingIOError):
                continue
            finally:
                side.setblocking(True)
            if not data:
                return
            across[side].sendall(data)


def echo(tls):
    tls.settimeout(None)
    while data := tls.recv(16384):
        tls.sendall(data)


def served(address, handle):
    """Accepts for ever, each connection in a thread of its own; what goes wrong with one is said."""
    listener = socket.create_server(address, backlog=128)

    def run(connection):
        try:
            with connection:
                handle(connection)
        except OSError as error:
            print(f"{address}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def accept():
        while True:
            threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def inbound(identity, application):
    def handle(plain):
        with accepted(identity, plain) as tls, socket.create_connection(application) as local:
            pump(tls, local)
    return handle


def outbound(identity, name):
    def handle(local):
        with dialled(identity, name) as tls:
            pump(local, tls)
    return handle


def proxy():
    own, _ = call(f"/v1/agent/connect/proxy/{os.environ['CONNECT_PROXY_ID']}")
    identity, config = Identity(own["TargetServiceName"]), own["Config"]
    host, _, port = config["local_service_address"].rpartition(":")
    served((config["bind_address"], config["bind_port"]), inbound(identity, (host, int(port))))
    for upstream in own["Upstreams"]:
        place = (upstream.get("LocalBindAddress") or "127.0.0.1", upstream["LocalBindPort"])
        served(place, outbound(identity, upstream["DestinationName"]))


def native(service, port):
    identity = Identity(service)

    def handle(plain):
        with accepted(identity, plain) as tls:
            echo(tls)
    served(("127.0.0.1", int(port)), handle)


def dial(service, *targets):
    identity = Identity(service)
    for name, port in zip(targets[::2], targets[1::2]):
        served(("127.0.0.1", int(port)), outbound(identity, name))


{"proxy": proxy, "native": native, "dial": dial}[WORDS[0]](*WORDS[1:])
threading.Event().wait()
