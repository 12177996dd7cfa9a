"""The program of a fresh worker process. It is run as a script, and watches its parent before it imports anything."""

import os
import pickle
import runpy
import sys
from multiprocessing.connection import Connection


def main(parent: int, request_fd: int, reply_fd: int, log_fd: int) -> None:
    """Read what to do, import what it needs, and serve.

    Args:
        parent: Process id of the parent.
        request_fd: File descriptor of the pipe from the parent.
        reply_fd: File descriptor of the pipe to the parent.
        log_fd: File descriptor of the file to which a crash writes where it happened.
    """
    # By its path: an import by its name would import the whole package first, and torch.
    lifeline = runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lifeline.py"))
    lifeline["end_with_parent"](parent)
    inbox = lifeline["Inbox"](Connection(request_fd, writable=False))
    path, pickled = pickle.loads(inbox.get())  # noqa: S301  (pickled by the parent)
    sys.path[:] = path  # before any of the user's objects is unpickled
    from thalweg.comparison.processes.serving import serve

    serve(pickle.loads(pickled), inbox, Connection(reply_fd, readable=False), log_fd)  # noqa: S301


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
