"""One training, run and saved by each library as it does: the same step masses, the same scores."""

import json
from functools import partial

import accelerate
import lightning
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import transformers
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, SequentialSampler

from sourcetrace.errors import InputError
from tests.pipelines.test_training import Tiny, audit, ingest

STEPS, EVERY = 6, 2

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers"),
]


OPTIMIZERS = {
    "AdamW": partial(torch.optim.AdamW, betas=(0.8, 0.99), eps=1e-7),
    "SGD": partial(torch.optim.SGD, momentum=0.8, nesterov=True),
}


class Double(Tiny):
    """In float64, so that libraries may add up in another order."""

    def __init__(self, stages=None):
        super().__init__(stages)
        self.inputs = self.inputs.double()

    def build_model(self):
        return super().build_model().double()


def made(kind):
    """Return the data, the model, its optimiser and its scheduler, all at their beginning."""
    task = Double()
    model = task.build_model()
    optimizer = OPTIMIZERS[kind](model.named_parameters(), lr=0.02, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return task, model, optimizer, scheduler


def loop(save, kind):
    task, model, optimizer, scheduler = made(kind)
    rates = []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        cross_entropy(model(task.inputs[:6]), task.labels[:6]).backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        if step % EVERY == 0:
            save(step, model, optimizer, scheduler, rates)


def by_torch(folder, kind):
    def save(step, model, optimizer, scheduler, _):
        content = {
            "epoch": step,
            "global_step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        }
        torch.save(content, folder / f"model_{step}.pth")

    loop(save, kind)
    return folder


def by_distributed_checkpoint(folder, kind):
    def save(step, model, optimizer, scheduler, _):
        weights, state = get_state_dict(model, optimizer)
        content = {"model": weights, "optim": state, "step": step}
        content["lr_scheduler"] = scheduler.state_dict()
        dcp.save(content, checkpoint_id=folder / f"step-{step}")

    loop(save, kind)
    return folder


def by_hand(folder, kind):
    def save(step, model, optimizer, _, rates):
        name = f"weights-{step}"
        save_file(model.state_dict(), folder / f"{name}.safetensors")
        group = optimizer.param_groups[0]
        said = {"step": step, "optimizer": kind, "learning_rates": list(rates)}
        said |= {"learning_rate": group["lr"], "weight_decay": group["weight_decay"]}
        if kind == "SGD":
            said |= {"momentum": group["momentum"], "nesterov": True}
        else:
            said |= {"beta2": group["betas"][1], "eps": group["eps"]}
            moments = {
                f"exp_avg_sq.{key}": optimizer.state[one]["exp_avg_sq"]
                for key, one in model.named_parameters()
            }
            save_file(moments, folder / f"{name}.optimizer.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(said))

    loop(save, kind)
    return folder


def by_accelerate(folder, kind):
    task, model, optimizer, scheduler = made(kind)
    accelerator = accelerate.Accelerator(
        cpu=True,
        project_config=accelerate.utils.ProjectConfiguration(
            project_dir=folder, automatic_checkpoint_naming=True
        ),
    )
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        accelerator.backward(cross_entropy(model(task.inputs[:6]), task.labels[:6]))
        optimizer.step()
        scheduler.step()
        if step % EVERY == 0:
            accelerator.save_state()
    accelerator.free_memory()
    return folder / "checkpoints"


def by_lightning(folder, kind):
    task, model, optimizer, scheduler = made(kind)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

        def training_step(self, batch, _):
            inputs, labels = batch
            return cross_entropy(self.net(inputs), labels)

        def configure_optimizers(self):
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    trainer = lightning.Trainer(
        max_epochs=STEPS,
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(folder, save_top_k=-1, every_n_epochs=EVERY)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(Module(), DataLoader(task.train_examples(), batch_size=6))
    return folder


def by_trainer(folder, kind):
    task, model, optimizer, scheduler = made(kind)

    class Trainer(transformers.Trainer):
        def compute_loss(self, model, inputs, **_):
            return cross_entropy(model(inputs["x"]), inputs["labels"])

        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=6,
        max_grad_norm=0.0,
        logging_steps=1,
        save_steps=EVERY,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = [{"x": x, "labels": label} for x, label in task.train_examples()]
    optimizers = (optimizer, scheduler)
    Trainer(model, arguments, train_dataset=rows, optimizers=optimizers).train()
    return folder


WRITERS = [by_torch, by_hand, by_distributed_checkpoint, by_accelerate, by_lightning, by_trainer]
COLUMNS = ("step", "stage", "optimizer", "learning_rate", "momentum", "weight_decay", "step_mass")


def described(folder, task=None, method="source", **settings):
    return ingest(folder, task or Double(), method=method, **settings)[1][0].select(COLUMNS)


def assert_alike(found, expected, but=()):
    for column in COLUMNS:
        if column not in but:
            values = expected[column].to_list()
            close = pytest.approx(values, rel=1e-9) if expected[column].dtype.is_float() else values
            assert found[column].to_list() == close, column


@pytest.fixture(scope="module", params=OPTIMIZERS)
def plain(request, tmp_path_factory):
    """Return an optimiser's name, the folder that plain torch wrote, and its scores."""
    folder = by_torch(tmp_path_factory.mktemp("plain"), request.param)
    cache = tmp_path_factory.mktemp("cache")
    return request.param, folder, audit(cache, folder, task=Double())


@pytest.mark.parametrize("write", WRITERS)
def test_settings_and_scores_are_those_of_plain_torch(write, plain, tmp_path):
    kind, by_plain_torch, scores = plain
    (tmp_path / "run").mkdir()
    folder = write(tmp_path / "run", kind)
    if (write, kind) == (by_accelerate, "SGD"):  # which counts no steps
        for number, one in enumerate(sorted(folder.iterdir()), 1):
            (one / "training.json").write_text(json.dumps({"step": EVERY * number}))
    assert_alike(described(folder), described(by_plain_torch))
    found = audit(tmp_path, folder, task=Double())
    np.testing.assert_allclose(found, scores, rtol=1e-6, atol=1e-6 * abs(scores).max())
    task = Double(["first"] * 3 + ["second"] * 3)
    stages = {"first": EVERY, "second": STEPS}
    assert_alike(
        described(folder, task, stages=stages), described(by_plain_torch, task, stages=stages)
    )


def test_parameters_say_the_same_of_weights_alone(plain, tmp_path):
    kind, by_plain_torch, _ = plain
    folder = tmp_path / "run"
    folder.mkdir()
    rates = []

    def save(step, model, _, __, so_far):
        rates[:] = so_far
        torch.save(model.state_dict(), folder / f"{step}.pt")

    loop(save, kind)
    listed = "".join(f"{step},{rate}\n" for step, rate in enumerate(rates, 1))
    (tmp_path / "rates.csv").write_text("step,learning_rate\n" + listed)
    optimizer = {"name": kind, "learning_rate": 0.02, "weight_decay": 0.1}
    optimizer |= {"momentum": 0.8} if kind == "SGD" else {"second_moments": "none"}
    settings = {"optimizer": optimizer, "step_from": "name"}
    settings["learning_rates"] = str(tmp_path / "rates.csv")
    if kind != "SGD":
        with pytest.raises(InputError, match=r"2\.pt.* moments are lost .* influence"):
            described(folder, **settings)
    found = described(folder, method="influence", **settings)
    assert_alike(found, described(by_plain_torch), but=["learning_rate"])
