"""A port for a server that a test starts."""

import random
import socket

#: Below those that systems give to connections, and above those of Ray's workers: what is free
#: here stays free until the server has started.
RANGE = range(20000, 30000)


def free_port(host="127.0.0.1"):
    """One that nothing listens on; "" for all of this machine's addresses."""
    while True:
        port = random.SystemRandom().choice(RANGE)
        with socket.socket() as tried:
            try:
                tried.bind((host, port))
            except OSError:
                continue
        return port
