"""A worker of the loader: makes its parts of each batch until its socket, its standard input, ends.

`data/feeding.py` starts it. It imports neither JAX nor Grain, which would double its start and its
memory.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec

from bioclip2_jax.data import feeding, pipeline
from bioclip2_jax.errors import exit_on_user_error


def main(number: int, job: str) -> None:
    """Worker `number` of those that do this job."""
    for which in (signal.SIGINT, signal.SIGTERM):  # it ends when the training has saved
        signal.signal(which, signal.SIG_IGN)
    share = msgspec.json.decode(job, type=pipeline.Share)
    filler, settings = pipeline.Reader(share), share.settings
    parts = feeding.count_parts(filler.rows, settings.workers, settings.threads)
    channel, sending = socket.socket(fileno=sys.stdin.fileno()), threading.Lock()

    def say(step: int, part: int, *, made: bool) -> None:
        with sending:
            channel.sendall(feeding.MADE.pack(step, part, made))

    def make(step: int, part: int, batch: feeding.Arrays) -> None:
        try:
            filler.fill(step, part, parts, batch)
        except Exception:  # happens again in the other process, where somebody sees it
            say(step, part, made=False)
        else:
            say(step, part, made=True)

    pool = ThreadPoolExecutor(settings.threads)

    def take(step: int, first: int, last: int, memory: int) -> None:
        batch = feeding.map_batch(filler.layout(step), memory)
        os.close(memory)
        for part in range(first, last):
            if part % settings.workers == number:
                pool.submit(make, step, part, batch)

    with contextlib.suppress(Exception):  # what is wrong comes up again with the first part
        filler.warm_up()
    gc.freeze()  # or the collector looks at all that was imported again and again
    size, whole = feeding.DEALT.size, socket.MSG_WAITALL
    with contextlib.suppress(ConnectionError):
        say(-1, 0, made=True)
        while (received := socket.recv_fds(channel, size, 1, whole))[0]:
            message, memory, *_ = received
            take(*feeding.DEALT.unpack(message), *memory)
    os._exit(0)  # without what is left to make


if __name__ == "__main__":
    exit_on_user_error(lambda: main(int(sys.argv[1]), sys.argv[2]))
