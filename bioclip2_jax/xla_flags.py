"""What the compilers and runtimes of accelerators are told, with a reason each.

TPUs are told nothing: the flags for overlapping collectives that recipes elsewhere carry make the
same program of our train step (v5e:16x16, libtpu 0.0.52), in which weights are gathered in under
two hundredths of the time that they are used for.
"""

import os

GPU_FLAGS = {
    # Scatters by atomic adds, as in the token embedding's gradient, differ from run to run in the
    # last bits; a resumed run shall equal the run that was never killed.
    "xla_gpu_exclude_nondeterministic_ops": "true",
    # The next block's weights are gathered, and the last one's gradients summed, meanwhile.
    "xla_gpu_enable_latency_hiding_scheduler": "true",
    # The same from one turn of the loop over blocks to the next.
    "xla_gpu_enable_pipelined_all_gather": "true",
    "xla_gpu_enable_pipelined_reduce_scatter": "true",
}
ENVIRONMENT = {
    # JAX would leave a quarter of a GPU's memory unused.
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
}


def set_flags() -> None:
    """Sets them for this process; call it before JAX looks for devices.

    What the caller's environment says itself wins. Flags for GPUs do nothing elsewhere.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags += [f"--{k}={v}" for k, v in GPU_FLAGS.items() if f"--{k}=" not in " ".join(flags)]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
