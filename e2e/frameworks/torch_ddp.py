"""Trains a small model with DistributedDataParallel over gloo. torchrun starts it, and it goes on from its last checkpoint.

Arguments: a directory that outlives the pods, the number of steps, the least seconds that a step takes.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

CHECKPOINT_EVERY = 5
BATCH, FEATURES, HIDDEN = 32, 8, 16


def batch(step, rank, ranks):
    """Other samples for each rank and step, and the same ones in each run."""
    generator = torch.Generator().manual_seed(step * ranks + rank)
    inputs = torch.randn(BATCH, FEATURES, generator=generator)
    return inputs, inputs.mean(dim=1, keepdim=True)


def write(path, save):
    """Replaces a file as a whole: a worker may be killed at any moment."""
    draft = path.with_suffix(".draft")
    with draft.open("wb") as file:
        save(file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def main():
    directory, steps, step_seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1)
    )
    checkpoint, first = directory / "checkpoint.pt", 0
    saved = torch.load(checkpoint) if checkpoint.exists() else None
    if saved:
        model.load_state_dict(saved["model"])
    # By default the first step of each start adds gradients up in another order than those after it: sums of a run that goes on
    # would differ in their last digit. Parameters that may be unused keep the first order.
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    # it keeps moments: without them a run that goes on would end elsewhere
    optimizer = torch.optim.Adam(parallel.parameters(), lr=0.01)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["steps"]
    where = {"rank": rank, "ranks": ranks, "local_rank": int(os.environ["LOCAL_RANK"])}
    where |= {"host": socket.gethostname(), "first_step": first}
    with (directory / "starts").open("a") as file:
        file.write(json.dumps(where) + "\n")

    for step in range(first, steps):
        began = time.monotonic()
        inputs, targets = batch(step, rank, ranks)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(parallel(inputs), targets)
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        mean /= ranks
        if rank == 0:
            done = step + 1
            with (directory / "losses").open("a") as file:
                # all digits: an equal number is an equal loss
                file.write(json.dumps({"step": step, "loss": mean.item()}) + "\n")
            if done % CHECKPOINT_EVERY == 0 or done == steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": done}
                write(checkpoint, lambda file: torch.save(state, file))
        time.sleep(max(0.0, step_seconds - (time.monotonic() - began)))
    dist.barrier()
    dist.destroy_process_group()


main()
