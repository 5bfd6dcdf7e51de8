"""One training, run and saved by each library as it does: the same step masses, the same scores."""

import json

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

from tests.pipelines.test_training import Tiny, audit, ingest

STEPS, EVERY = 6, 2

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*num_workers"),
]


class Double(Tiny):
    """In float64, so that libraries may add up in another order."""

    def __init__(self):
        super().__init__()
        self.inputs = self.inputs.double()

    def build_model(self):
        return super().build_model().double()


def made():
    """Return the data, the model, its optimiser and its scheduler, all at their beginning."""
    task = Double()
    model = task.build_model()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.02, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    return task, model, optimizer, scheduler


def loop(save):
    task, model, optimizer, scheduler = made()
    rates = []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        cross_entropy(model(task.inputs[:6]), task.labels[:6]).backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        if step % EVERY == 0:
            save(step, model, optimizer, scheduler, rates)


def by_torch(folder):
    def save(step, model, optimizer, scheduler, _):
        content = {
            "epoch": step,
            "global_step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        }
        torch.save(content, folder / f"model_{step}.pth")

    loop(save)
    return folder


def by_distributed_checkpoint(folder):
    def save(step, model, optimizer, scheduler, _):
        weights, state = get_state_dict(model, optimizer)
        content = {"model": weights, "optim": state, "step": step}
        content["lr_scheduler"] = scheduler.state_dict()
        dcp.save(content, checkpoint_id=folder / f"step-{step}")

    loop(save)
    return folder


def by_hand(folder):
    def save(step, model, optimizer, _, rates):
        name = f"weights-{step}"
        save_file(model.state_dict(), folder / f"{name}.safetensors")
        moments = {
            f"exp_avg_sq.{key}": optimizer.state[one]["exp_avg_sq"]
            for key, one in model.named_parameters()
        }
        save_file(moments, folder / f"{name}.optimizer.safetensors")
        group = optimizer.param_groups[0]
        said = {"step": step, "optimizer": "AdamW", "learning_rates": list(rates)}
        said |= {"learning_rate": group["lr"], "weight_decay": group["weight_decay"]}
        (folder / f"{name}.json").write_text(json.dumps(said))

    loop(save)
    return folder


def by_accelerate(folder):
    task, model, optimizer, scheduler = made()
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


def by_lightning(folder):
    task, model, optimizer, scheduler = made()

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


def by_trainer(folder):
    task, model, optimizer, scheduler = made()

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


def described(folder):
    manifest = ingest(folder, Double())[1][0]
    return manifest.select("step", "optimizer", "learning_rate", "weight_decay", "step_mass")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = by_torch(tmp_path_factory.mktemp("expected"))
    return described(folder), audit(folder.parent / "expected_cache", folder, task=Double())


@pytest.mark.parametrize("write", WRITERS)
def test_step_masses_and_scores_are_those_of_plain_torch(write, expected, tmp_path):
    (tmp_path / "run").mkdir()
    folder = write(tmp_path / "run")
    manifest, scores = expected
    found = described(folder)
    for column in manifest.columns:
        if manifest[column].dtype.is_float():
            assert found[column].to_list() == pytest.approx(manifest[column].to_list(), rel=1e-9)
        else:
            assert found[column].to_list() == manifest[column].to_list()
    np.testing.assert_allclose(
        audit(tmp_path, folder, task=Double()), scores, rtol=1e-6, atol=1e-6 * abs(scores).max()
    )
