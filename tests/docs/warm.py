"""A warm interpreter for the pages' commands: it imports what takes seconds once, and forks for each of them.

``warm.py --serve SOCKET`` serves; ``warm.py SOCKET exapt ARGUMENTS`` and ``warm.py SOCKET python CODE`` are run by a fork
of it, with the caller's folder, environment and streams.
"""

import json
import os
import signal
import socket
import sys
import traceback


def serve(address):
    import peft  # noqa: F401
    import transformers  # noqa: F401

    import exapt.api  # noqa: F401
    from exapt.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while True:
            caller = server.accept()[0]
            with caller:
                said, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
                if os.fork() == 0:
                    caller.sendall(bytes([answer(main, json.loads(said), streams)]))
                    os._exit(0)
            for stream in streams:
                os.close(stream)


def answer(main, asked, streams):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    kind, *arguments = asked["arguments"]
    sys.argv = [kind, *arguments]
    try:
        main() if kind == "exapt" else exec(arguments[0], {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def ask(address, arguments):
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
        return (server.recv(1) or b"\1")[0]


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
