"""Damages checkpoints at random and reads them: `python -m tests.checkpoints --inputs 20000`.

Every input is a folder that a library wrote, with one thing in it changed: bytes flipped, cut,
doubled or exchanged between files; inside an archive, under a right checksum; a value of a JSON
file, or of what `torch.save` wrote, replaced; a file removed, emptied, or put in another's place.
It is read as an audit reads it. What comes of it is a checkpoint or an InputError; anything else is
printed with the seed that makes it again.
"""

import copy
import io
import json
import random
import shutil
import signal
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.errors import InputError
from sourcetrace.pipelines.checkpoint_ingest.training import Training

SECONDS = 20
"""For one input; a reader that takes longer hangs."""

_VALUES: Sequence[Any] = (
    *(None, True, -1, 0, 2**63, 10**400, 1e308, float("nan")),
    *("", "../../x", "/etc/passwd", "\0", [], {}),
)


def damage(folder: Path, random_numbers: random.Random) -> str:
    """Change one thing in a folder; return what."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return "nothing left"
    path = random_numbers.choice(files)
    ways: list[Callable[[Path, random.Random], str]] = [_bytes_changed, _bytes_changed, _file_moved]
    if zipfile.is_zipfile(path):
        ways += [_archive_changed] * 4
    if path.suffix in (".pt", ".bin", ".ckpt"):
        ways += [_content_changed] * 4
    if path.suffix == ".json":
        ways += [_value_changed] * 4
    return f"{path.relative_to(folder)}: {random_numbers.choice(ways)(path, random_numbers)}"


def changed(data: bytes, random_numbers: random.Random) -> tuple[bytes, str]:
    """Return bytes with a change, and what it was."""
    if not data:
        return b"\0", "filled"
    start = random_numbers.randrange(len(data))
    stop = min(len(data), start + random_numbers.choice((1, 2, 8, 64, 4096)))
    way = random_numbers.choice(("flip", "cut", "drop", "double", "zero", "noise"))
    if way == "flip":
        new = (
            data[:start]
            + bytes([data[start] ^ 1 << random_numbers.randrange(8)])
            + data[start + 1 :]
        )
    elif way == "cut":
        new = data[:start]
    elif way == "drop":
        new = data[:start] + data[stop:]
    elif way == "double":
        new = data[:stop] + data[start:]
    else:
        other = bytes(stop - start) if way == "zero" else random_numbers.randbytes(stop - start)
        new = data[:start] + other + data[stop:]
    return new, f"{way} {start}:{stop}"


def _bytes_changed(path: Path, random_numbers: random.Random) -> str:
    data, what = changed(path.read_bytes(), random_numbers)
    path.write_bytes(data)
    return what


def _file_moved(path: Path, random_numbers: random.Random) -> str:
    others = [one for one in path.parent.rglob("*") if one.is_file() and one != path]
    way = random_numbers.choice(
        ("remove", "empty", "folder", *(["swap", "copy"] if others else []))
    )
    if way == "empty":
        path.write_bytes(b"")
    elif way in ("remove", "folder"):
        path.unlink()
        if way == "folder":
            path.mkdir()
    else:
        other = random_numbers.choice(others)
        kept = path.read_bytes()
        path.write_bytes(other.read_bytes())
        if way == "swap":
            other.write_bytes(kept)
        return f"{way} {other.name}"
    return way


def _archive_changed(path: Path, random_numbers: random.Random) -> str:
    """Change a member of a zip archive, under a right checksum; its pickle most of the time."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError):
        return _bytes_changed(path, random_numbers)  # damaged before
    if not members:
        return _bytes_changed(path, random_numbers)
    pickles = [name for name in members if name.endswith(".pkl")]
    name = random_numbers.choice(pickles * len(members) + list(members))
    members[name], what = changed(members[name], random_numbers)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    path.write_bytes(written.getvalue())
    return f"{name} {what}"


def _value_changed(path: Path, random_numbers: random.Random) -> str:
    """Replace a value somewhere in a JSON file."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return _bytes_changed(path, random_numbers)
    what = _replaced(content, random_numbers, _VALUES)
    path.write_text(json.dumps(content))
    return what


def _content_changed(path: Path, random_numbers: random.Random) -> str:
    """Replace a value somewhere in what `torch.save` wrote."""
    try:
        content = torch.load(path, weights_only=True)
    except Exception:  # damaged before
        return _bytes_changed(path, random_numbers)
    tensors = (torch.tensor(-1.0), torch.tensor(float("nan")), torch.ones(2, 3))
    own = (content, [content], [0], [1, 1], [[0]], {"0": 1}, {0: {}}, b"", 1 + 2j, (0,) * 9)
    what = _replaced(content, random_numbers, (*_VALUES, *tensors, *own))
    torch.save(content, path)
    return what


def _replaced(content: Any, random_numbers: random.Random, values: Sequence[Any]) -> str:
    places = list(_places(content))
    if not places:
        return "nothing in it"
    holder, key = random_numbers.choice(places)
    way = random_numbers.choice(("set", "set", "set", "drop", "swap"))
    if way == "drop":
        del holder[key]
        return f"{key} dropped"
    other, place = random_numbers.choice(places)
    value = random_numbers.choice(values) if way == "set" else copy.deepcopy(other[place])
    holder[key] = value
    return f"{str(key)[:40]} = {str(value)[:20]!r}"


def _places(content: Any, depth: int = 9) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, dict | list) and depth:
        for key, value in list(
            content.items() if isinstance(content, dict) else enumerate(content)
        ):
            yield content, key
            yield from _places(value, depth - 1)


def read(folder: Path, model: nn.Module) -> None:
    """Read a folder as an audit does: settings, weights, rates and second moments.

    Raises:
        InputError: If it is refused.
    """
    checkpoints = CheckpointFolder(folder)
    found = [checkpoints.load(file, model) for file in checkpoints.files()]
    rows = [row for run in Training.of_runs(found, checkpoints, model) for row in run.rows()]
    for checkpoint, row in zip(found, rows, strict=True):
        if row["optimizer"] != "SGD" and row["state_places"]:
            names: dict[int, list[str]] = {}
            for place in row["state_places"]:
                names.setdefault(place["place"], []).append(place["parameter"])
            checkpoints.denominators(checkpoint.file, checkpoint.sha256, names)


def run(
    sources: Sequence[Path], model: nn.Module, *, inputs: int, seed: int = 0
) -> tuple[Counter[str], list[str]]:
    """Damage and read folders.

    Returns:
        How many inputs were accepted and refused, and what else came, a text each.
    """
    outcomes: Counter[str] = Counter()
    failures = []
    for number in range(inputs):
        random_numbers = random.Random(f"{seed}/{number}")
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "checkpoints"
            source = random_numbers.choice(sources)
            shutil.copytree(source, folder)
            what = [
                damage(folder, random_numbers) for _ in range(random_numbers.choice((1, 1, 1, 3)))
            ]
            try:
                with _time_limit():
                    read(folder, model)
                outcomes["accepted"] += 1
            except InputError:
                outcomes["refused"] += 1
            except Exception:
                outcomes["failed"] += 1
                failures.append(f"{seed}/{number} {source.name} {what}\n{traceback.format_exc()}")
    return outcomes, failures


def write_all(place: Path) -> tuple[nn.Module, list[Path]]:
    """Write folders of two checkpoints of one training, a folder a format; return them."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    writers = {
        "torch": _torch,
        "older_torch": _older_torch,
        "safetensors": _safetensors,
        "trainer": _trainer,
        "accelerate": _accelerate,
        "lightning": _lightning,
        "lightning_shards": _lightning_shards,
        "distributed": _distributed,
        "sharded": _sharded,
    }
    for step in range(1, 9):
        optimizer.zero_grad()
        torch.autograd.backward(model(torch.randn(5, 3)).square().mean())
        optimizer.step()
        scheduler.step()
        if step % 4 == 0:
            for name, write in writers.items():
                (place / name).mkdir(parents=True, exist_ok=True)
                write(place / name, step, model, optimizer, scheduler)
    return model, [place / name for name in writers]


def _content(step: int, model: Any, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "lr_scheduler_state_dict": scheduler.state_dict(),
        "step": step,
    }


def _torch(folder: Path, step: int, *state: Any) -> None:
    torch.save(_content(step, *state), folder / f"step_{step}.pt")


def _older_torch(folder: Path, step: int, *state: Any) -> None:
    path = folder / f"step_{step}.pt"
    torch.save(_content(step, *state), path, _use_new_zipfile_serialization=False)


def _safetensors(folder: Path, step: int, model: Any, optimizer: Any, _: Any) -> None:
    names = [name for name, _ in model.named_parameters()]
    moments = {
        f"exp_avg_sq.{name}": optimizer.state_dict()["state"][place]["exp_avg_sq"]
        for place, name in enumerate(names)
    }
    save_file(model.state_dict(), folder / f"step_{step}.safetensors")
    save_file(moments, folder / f"step_{step}.optimizer.safetensors")
    settings = {"step": step, "learning_rate": 0.01, "optimizer": "AdamW", "weight_decay": 0.01}
    (folder / f"step_{step}.json").write_text(json.dumps(settings))


def _trainer(folder: Path, step: int, model: Any, optimizer: Any, scheduler: Any) -> None:
    """Write what the Trainer's own test has it write, in parts with an index."""
    place = folder / f"checkpoint-{step}"
    place.mkdir()
    state = model.state_dict()
    parts = {
        "model-00001-of-00002.safetensors": ["0.weight", "0.bias"],
        "model-00002-of-00002.safetensors": ["2.weight", "2.bias"],
    }
    for part, names in parts.items():
        save_file({name: state[name] for name in names}, place / part)
    weight_map = {name: part for part, names in parts.items() for name in names}
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.save(optimizer.state_dict(), place / "optimizer.pt")
    torch.save(scheduler.state_dict(), place / "scheduler.pt")
    log = [{"step": one, "learning_rate": 0.01, "loss": 1.0} for one in range(2, step + 1, 2)]
    trainer_state = {"global_step": step, "max_steps": 8, "log_history": log}
    (place / "trainer_state.json").write_text(json.dumps(trainer_state))


def _accelerate(folder: Path, step: int, model: Any, optimizer: Any, scheduler: Any) -> None:
    place = folder / f"checkpoint_{step}"
    place.mkdir()
    save_file(model.state_dict(), place / "model.safetensors")
    torch.save(optimizer.state_dict(), place / "optimizer.bin")
    torch.save(scheduler.state_dict(), place / "scheduler.bin")


def _of_lightning(step: int, scheduler: Any) -> dict[str, Any]:
    loop = {"optimizer": {"step": {"current": {"completed": 4}}}}
    fit_loop = {
        "epoch_loop.batch_progress": {"is_last_batch": True},
        "epoch_loop.automatic_optimization.optim_progress": loop,
    }
    return {
        "global_step": step,
        "lr_schedulers": [scheduler.state_dict()],
        "loops": {"fit_loop": fit_loop},
    }


def _lightning(folder: Path, step: int, model: Any, optimizer: Any, scheduler: Any) -> None:
    weights = {f"model.{name}": one for name, one in model.state_dict().items()}
    content = {"state_dict": weights, "optimizer_states": [optimizer.state_dict()]}
    torch.save({**content, **_of_lightning(step, scheduler)}, folder / f"step={step}.ckpt")


def _lightning_shards(folder: Path, step: int, model: Any, optimizer: Any, scheduler: Any) -> None:
    weights, state = get_state_dict(model, optimizer)
    place = folder / f"step={step}.ckpt"
    dcp.save({"state_dict": weights, "optimizer_0": state}, checkpoint_id=place)
    torch.save(_of_lightning(step, scheduler), place / "meta.pt")


def _distributed(folder: Path, step: int, model: Any, optimizer: Any, scheduler: Any) -> None:
    weights, state = get_state_dict(model, optimizer)
    content = {"model": weights, "optimizer": state, "step": step}
    dcp.save({**content, "scheduler": scheduler.state_dict()}, checkpoint_id=folder / f"{step}")


def _sharded(folder: Path, step: int, model: Any, optimizer: Any, _: Any) -> None:
    weights, state = get_state_dict(model, optimizer)
    place = folder / f"checkpoint_{step}"
    dcp.save({"model": weights}, checkpoint_id=place / "pytorch_model_fsdp_0")
    dcp.save({"optimizer": state}, checkpoint_id=place / "optimizer_0")


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
