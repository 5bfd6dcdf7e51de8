"""The networks, data and checkpoints on which packages are compared; torch alone.

A folder holds data.pt (train and query: inputs and labels), workload.json and
checkpoints/step_*.pt, ordinary checkpoints. Peers read it too.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from benchmarks.small_networks import mlp
from torch import Tensor, nn

CLASSES = 10

LAST = "last_checkpoint"
"""The folder that holds the last checkpoint alone."""


@dataclass(frozen=True)
class Workload:
    """What is attributed.

    Attributes:
        network: `mlp` or `resnet9`.
        widths: Of the MLP's layers, inputs first; of ResNet-9, the first convolution's channels.
        examples: N.
        queries: Q.
        epochs: Of the training that makes the checkpoints.
        checkpoints: How many are saved, evenly over the training.
        batch_size: Of the training.
        learning_rate: Of the training.
        momentum: Of the training.
        seed: Of the weights, the order of batches and random data.
    """

    network: str
    widths: tuple[int, ...]
    examples: int
    queries: int
    epochs: int
    checkpoints: int
    batch_size: int = 64
    learning_rate: float = 0.03
    momentum: float = 0.9
    seed: int = 0


WORKLOADS = {
    "mlp": Workload("mlp", (784, 512, 256, CLASSES), 6000, 200, epochs=6, checkpoints=6),
    # So few examples because a peer's corrected eigenvalues take about a second an example.
    "resnet9": Workload(
        "resnet9", (64,), 128, 16, epochs=1, checkpoints=1, batch_size=32, learning_rate=0.01
    ),
}


def build_network(workload: Workload) -> nn.Module:
    """Return the untrained network."""
    if workload.network == "mlp":
        return mlp(workload.widths)
    return ResNet9(workload.widths[0])


def _convolution(inputs: int, outputs: int, *, pool: bool = False) -> nn.Sequential:
    """Return a 3 × 3 convolution, a normalisation without weights and a ReLU.

    Without weights of its own, because a peer attributes convolutions and linear layers alone.
    """
    layers = [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs, affine=False),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class _Residual(nn.Module):
    """x + f(x), f two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _convolution(channels, channels), _convolution(channels, channels)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return x + f(x)."""
        return images + self.inner(images)


class ResNet9(nn.Module):
    """Eight convolutions and a linear layer for images [B, 3, 32, 32].

    Args:
        channels: Of the first convolution; the last has eight times as many.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(3, channels),
            _convolution(channels, 2 * channels, pool=True),
            _Residual(2 * channels),
            _convolution(2 * channels, 4 * channels, pool=True),
            _convolution(4 * channels, 8 * channels, pool=True),
            _Residual(8 * channels),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8 * channels, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, [B, classes]."""
        return self.head(self.body(images))


def random_data(workload: Workload) -> dict[str, tuple[Tensor, Tensor]]:
    """Return Gaussian inputs; their labels are those of a random linear map."""
    generator = torch.Generator().manual_seed(workload.seed)
    shape = (workload.widths[0],) if workload.network == "mlp" else (3, 32, 32)
    size = torch.Size(shape).numel()
    teacher = torch.randn(size, CLASSES, generator=generator)
    data = {}
    for side, count in (("train", workload.examples), ("query", workload.queries)):
        inputs = torch.randn(count, *shape, generator=generator)
        data[side] = inputs, (inputs.flatten(1) @ teacher).argmax(1)
    return data


def prepare(workload: Workload, folder: Path, data: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Train the network and write the folder.

    Args:
        workload: What to make.
        folder: Where; it must exist.
        data: Inputs and labels of `train` and `query`; as many as the workload says are taken.

    Raises:
        ValueError: If there are fewer.
    """
    counts = {"train": workload.examples, "query": workload.queries}
    for side, count in counts.items():
        if len(data[side][1]) < count:
            raise ValueError(
                f"{side}: expected at least {count} examples, got {len(data[side][1])}. Ask for "
                "fewer with --examples or --queries."
            )
    taken = {side: tuple(one[:count] for one in data[side]) for side, count in counts.items()}
    torch.save(taken, folder / "data.pt")
    (folder / "workload.json").write_text(json.dumps(asdict(workload)))
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    _train(workload, checkpoints, *taken["train"])
    (folder / LAST).mkdir()
    shutil.copy(_last(folder), folder / LAST)


def _train(workload: Workload, folder: Path, inputs: Tensor, labels: Tensor) -> None:
    batch = min(workload.batch_size, len(labels))
    order = torch.Generator().manual_seed(workload.seed)
    steps = workload.epochs * (len(labels) // batch)
    saved = {round(steps * (one + 1) / workload.checkpoints) for one in range(workload.checkpoints)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(workload.seed)
        model = build_network(workload).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=workload.learning_rate, momentum=workload.momentum
    )
    step = 0
    for _ in range(workload.epochs):
        shuffled = torch.randperm(len(labels), generator=order)
        for chosen in shuffled[: len(labels) // batch * batch].split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            step += 1
            if step in saved:
                save_checkpoint(folder, model, optimizer, step)


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write an ordinary checkpoint."""
    content = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "step": step,
    }
    torch.save(content, folder / f"step_{step:06d}.pt")


def read_workload(folder: Path) -> Workload:
    """Return what `prepare` was given."""
    content = json.loads((folder / "workload.json").read_text())
    return Workload(**content | {"widths": tuple(content["widths"])})


def read_data(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return inputs and labels of `train` and `query`."""
    return torch.load(folder / "data.pt", weights_only=True)


def final_network(folder: Path) -> nn.Module:
    """Return the network with the last checkpoint's weights, in evaluation mode."""
    model = build_network(read_workload(folder))
    last = _last(folder)
    model.load_state_dict(torch.load(last, weights_only=True)["model_state_dict"])
    return model.eval()


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the measurement log p − log(1 − p) of the given labels, [B]."""
    given = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    others = logits.scatter(-1, labels.unsqueeze(-1), -torch.inf)
    return given - others.logsumexp(-1)


def draw_labels(logits: Tensor) -> Tensor:
    """Return a label drawn from each row's softmax, [B]."""
    return torch.multinomial(logits.detach().softmax(-1), 1).flatten()


def batches(inputs: Tensor, labels: Tensor, size: int) -> Sequence[tuple[Tensor, Tensor]]:
    """Return consecutive batches."""
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def _last(folder: Path) -> Path:
    return sorted((folder / "checkpoints").glob("step_*.pt"))[-1]
