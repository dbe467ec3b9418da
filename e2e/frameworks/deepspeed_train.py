"""A few steps of a DeepSpeed engine over gloo. Last argument: a directory for what each rank ends with. DeepSpeed puts one before it."""

import json
import os
import socket
import sys
from pathlib import Path

# before it is imported: there is no GPU to be found
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch

STEPS, BATCH, FEATURES = 40, 32, 4
CONFIG = {
    "train_micro_batch_size_per_gpu": BATCH,
    "optimizer": {"type": "Adam", "params": {"lr": 0.1, "torch_adam": True}},
}


def main():
    # an operator that would be compiled, for which the image has no compiler
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model = torch.nn.Linear(FEATURES, 1)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=CONFIG
    )
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    # other samples for each rank: the weights are equal only if the gradients of all were
    generator = torch.Generator().manual_seed(rank)
    losses = []
    for _ in range(STEPS):
        inputs = torch.randn(BATCH, FEATURES, generator=generator)
        loss = torch.nn.functional.mse_loss(engine(inputs), inputs.sum(dim=1, keepdim=True))
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    ended = {
        "ranks": ranks,
        "local_rank": int(os.environ["LOCAL_RANK"]),
        "host": socket.gethostname(),
        "precision": os.environ.get("BURSAR_PRECISION"),
        "losses": losses,
        "weights": engine.module.weight.detach().ravel().tolist(),
    }
    (Path(sys.argv[-1]) / f"rank-{rank}.json").write_text(json.dumps(ended))


main()
