"""What the compilers and runtimes of accelerators are told, with a reason each.

TPUs are told nothing: the flags for overlapping collectives that recipes elsewhere carry make the
same program of our train step (v5e:16x16), in which weights are gathered in under
two hundredths of the time that they are used for.
"""

import os

GPU_FLAGS = {
    # The next block's weights are gathered, and the last one's gradients summed, meanwhile.
    "xla_gpu_enable_latency_hiding_scheduler": "true",
    # The same from one turn of the loop over blocks to the next.
    "xla_gpu_enable_pipelined_all_gather": "true",
    "xla_gpu_enable_pipelined_reduce_scatter": "true",
    # Trying Triton's matrix products beside cuBLAS's takes half of the compilation, and on an H100
    # the step was as fast without them (jax 0.11.2).
    "xla_gpu_enable_triton_gemm": "false",
}
# Scatters by atomic adds, as in the token embedding's gradient, differ from run to run in the last
# bits; a resumed run shall equal the run that was never killed. Not with cuDNN's attention: its
# backward pass adds that way too, and a train step with this flag ends in an error (jax 0.11.2).
# Not with the project's own kernels either: they need no scatter, and no flag that costs speed.
DETERMINISTIC = {"xla_gpu_exclude_nondeterministic_ops": "true"}
# Who waits for a host that stands still is ended by the watchdog, which says where it waits. XLA
# would abort forty seconds into the first collective operation; later ones have no such limit.
PATIENT = {
    "xla_gpu_first_collective_call_terminate_timeout_seconds": "86400",
    "xla_gpu_nccl_termination_timeout_seconds": "-1",
}


def set_flags(attention: str = "xla") -> None:
    """Sets them for this process; call it before JAX looks for devices.

    What the caller's environment says itself wins. Flags for GPUs do nothing elsewhere.
    `attention` is `config.model.attention`.
    """
    wanted = GPU_FLAGS | PATIENT | (DETERMINISTIC if attention == "xla" else {})
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags += [f"--{k}={v}" for k, v in wanted.items() if f"--{k}=" not in " ".join(flags)]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    # JAX would leave a quarter of a GPU's memory unused.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
