"""Trains XGBoost on the workers of a Dask scheduler. Arguments: a directory for what was seen, the number of workers."""

import json
import os
import socket
import sys
from pathlib import Path

import dask.array
from dask.distributed import Client
from xgboost import dask as xgboost

SECONDS = 120
ROWS, FEATURES, ROUNDS = 4000, 5, 20


def main():
    workers = int(sys.argv[2])
    client = Client(f"tcp://{os.environ['BURSAR_FIRST_ADDRESS']}:8786", timeout=SECONDS)
    client.wait_for_workers(workers, timeout=SECONDS)
    random = dask.array.random.default_rng(0)
    inputs = random.random((ROWS, FEATURES), chunks=(ROWS // workers, FEATURES))
    matrix = xgboost.DaskDMatrix(client, inputs, inputs.sum(axis=1))
    trained = xgboost.train(
        client, {"tree_method": "hist"}, matrix, num_boost_round=ROUNDS, evals=[(matrix, "train")]
    )
    seen = {
        "hosts": sorted(client.run(socket.gethostname).values()),
        "losses": trained["history"]["train"]["rmse"],
    }
    (Path(sys.argv[1]) / "client.json").write_text(json.dumps(seen))


main()
