"""Asks servers as a program with Python's grpcio and a service config does.

    grpcio.py CONFIG ADDRESS METRICS [ADDRESS METRICS …]

Over one channel to all of the addresses, it repeats a call until standard input ends, and then
a hundred times more. Standard error says when each server has answered, as its metrics show. A
call that fails ends the program. The caller's token is in CALLER, and the request in REQUEST,
in base64.
"""

import base64
import os
import sys
import threading
import urllib.request

import grpc

METHOD = "/hitkeep.auth.v1.IntrospectionService/Introspect"
CALLS_AFTERWARDS = 100
# IntrospectResponse begins with it: field 1, `active`, is true.
ACTIVE = b"\x08\x01"

with open(sys.argv[1], encoding="utf-8") as file:
    config = file.read()
addresses, metrics = sys.argv[2::2], sys.argv[3::2]
request = base64.b64decode(os.environ["REQUEST"])
authorization = f"Bearer {os.environ['CALLER']}"
# The servers are on this machine, whatever proxy the environment names.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
options = [
    ("grpc.service_config", config),
    # Or else it would send the list of addresses, which is none in HTTP/2.
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
]


def has_answered(address):
    """Whether a server has counted a verdict."""
    with opener.open(f"http://{address}/metrics") as page:
        lines = page.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("hitkeep_auth_verdicts_total")]
    return any(float(line.rsplit(" ", 1)[1]) > 0 for line in counts)


ended = threading.Event()


def wait():
    sys.stdin.read()
    ended.set()


with grpc.insecure_channel("ipv4:" + ",".join(addresses), options) as channel:
    # Without serializers, messages are bytes.
    introspect = channel.unary_unary(METHOD)

    def ask():
        reply = introspect(request, metadata=[("authorization", authorization)])
        if not reply.startswith(ACTIVE):
            sys.exit(f"the token is not active: {reply.hex()}")

    while not all(map(has_answered, metrics)):
        ask()
    print("all servers have answered", file=sys.stderr, flush=True)
    threading.Thread(target=wait, daemon=True).start()
    calls = 0
    while not ended.is_set():
        ask()
        calls += 1
    for _ in range(CALLS_AFTERWARDS):
        ask()
print(f"no call failed, of {calls} and {CALLS_AFTERWARDS} more")
