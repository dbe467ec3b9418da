"""Gathers one number of each process. Argument: a directory for what each has seen."""

import json
import os
import socket
import sys
from pathlib import Path

import jax
from jax.experimental import multihost_utils


def main():
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # the address of the coordinator is read from JAX_COORDINATOR_ADDRESS
    jax.distributed.initialize(
        num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
        process_id=int(os.environ["JAX_PROCESS_ID"]),
        initialization_timeout=120,
    )
    process = jax.process_index()
    gathered = multihost_utils.process_allgather(jax.numpy.array([process + 1]))
    seen = {
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "gathered": gathered.ravel().tolist(),
        "host": socket.gethostname(),
    }
    (Path(sys.argv[1]) / f"process-{process}.json").write_text(json.dumps(seen))
    jax.distributed.shutdown()


main()
