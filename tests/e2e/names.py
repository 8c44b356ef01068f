"""Asks a name server for one name over and over, run inside a task's network namespace.

    python -m tests.e2e.names SERVER NAME

Prints a line of JSON for every answer until its input ends: when it was asked (the machine's monotonic clock), and the
addresses.
"""

import json
import select
import socket
import sys
import time

import dns.exception
import dns.message
import dns.query
import dns.rdatatype

PAUSE_S = 0.03


def main() -> None:
    server, name = sys.argv[1:]
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        asked_at = time.monotonic()
        try:
            answer = dns.query.udp(dns.message.make_query(name, "A"), server, timeout=1.0)
            found = [item.address for rows in answer.answer if rows.rdtype == dns.rdatatype.A for item in rows]
        except (dns.exception.DNSException, OSError, socket.gaierror):
            found = []
        print(json.dumps([asked_at, sorted(found)]), flush=True)


if __name__ == "__main__":
    main()
