"""A training of two processes whose parameters are sharded, run by `test_distributed_folder`."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.fsdp import fully_shard


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def data(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, generator=generator)


def train(trained, optimizer, steps):
    for step in range(steps):
        optimizer.zero_grad()
        trained(data(step)).square().mean().backward()
        optimizer.step()


def _run(rank, folder):
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    sharded = model()
    fully_shard(sharded)
    optimizer = torch.optim.AdamW(sharded.parameters(), lr=0.01)
    train(sharded, optimizer, 3)
    for flat in (False, True):
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        weights, state = get_state_dict(sharded, optimizer, options=options)
        content = {"model": weights, "optimizer": state, "step": 3}
        dcp.save(content, checkpoint_id=folder / ("flat" if flat else "nested"))
    dist.destroy_process_group()


if __name__ == "__main__":
    _run(int(sys.argv[2]), Path(sys.argv[1]))
    # Of a process that ends at leisure, gloo's threads at times end it by SIGABRT first.
    os._exit(0)
