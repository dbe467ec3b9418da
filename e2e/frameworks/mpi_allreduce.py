"""Adds the ranks of all processes up. Argument: a directory for what each rank has seen."""

import json
import os
import socket
import sys
from pathlib import Path

from mpi4py import MPI


def main():
    world = MPI.COMM_WORLD
    rank, ranks = world.Get_rank(), world.Get_size()
    seen = {
        "ranks": ranks,
        "sum": world.allreduce(rank),
        "host": socket.gethostname(),
        "role_rank": os.environ.get("BURSAR_ROLE_RANK"),
        "library": MPI.Get_library_version().split(",")[0],
    }
    (Path(sys.argv[1]) / f"rank-{rank}.json").write_text(json.dumps(seen))


main()
