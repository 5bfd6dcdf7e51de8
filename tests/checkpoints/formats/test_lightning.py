"""Lightning's `.ckpt`: the layout of Lightning 2.6, and files of its own where it is installed."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.formats.torch_file import TorchFile
from sourcetrace.core.training.segments import group_step_masses
from sourcetrace.errors import InputError
from sourcetrace.pipelines.checkpoint_ingest.training import Training


def in_the_layout(folder):
    """Train and save by hand what `lightning.Trainer.save_checkpoint` writes."""
    model = nn.ModuleDict({"net": nn.Linear(2, 1)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for _ in range(4):
        optimizer.zero_grad()
        model["net"](torch.randn(3, 2)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    progress = {"total": {"ready": 4, "completed": 4}, "current": {"ready": 4, "completed": 4}}
    content = {
        "epoch": 0,
        "global_step": 4,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_loop.scheduler_progress": progress}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"kth_value": torch.tensor(torch.inf)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "hparams_name": "kwargs",
        "hyper_parameters": {"rate": 0.1},
    }
    torch.save(content, folder / "epoch=0-step=4.ckpt")
    return content


def by_lightning(folder):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self, rate=0.1):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Linear(2, 1)

        def training_step(self, batch, _):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.rate)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(12, 2), batch_size=3))
    trainer.save_checkpoint(folder / "epoch=0-step=4.ckpt")


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("saved_after", [(1, 2, 3), (2,)])
def test_a_scheduler_that_is_stepped_an_epoch_has_the_epochs_length(tmp_path, saved_after):
    lightning = pytest.importorskip("lightning")
    rates = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 1)

        def training_step(self, batch, _):
            return self.net(batch).square().mean()

        def on_before_optimizer_step(self, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[
            lightning.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path, save_top_k=-1),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=2,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(27, 2), batch_size=2))
    folder, model = CheckpointFolder(tmp_path), nn.Linear(2, 1)
    found = [folder.load(file, model) for file in folder.files()]
    assert [one.record.step for one in found] == [7, 14, 21]
    kept = [found[epoch - 1] for epoch in saved_after]
    (run,) = Training.of_runs(kept, folder, model)
    assert {one.source for one in run.rates} == {"reconstructed"}
    ends = [0, *(7 * epoch for epoch in saved_after)]
    expected = [sum(rates[begin:end]) for begin, end in pairwise(ends)]
    assert [own[0] for own in group_step_masses(run.records)] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("write", [in_the_layout, by_lightning])
def test_a_checkpoint_is_read_as_it_is(tmp_path, write):
    write(tmp_path)
    saved = torch.load(tmp_path / "epoch=0-step=4.ckpt", weights_only=True)
    model = nn.Linear(2, 1)
    folder = CheckpointFolder(tmp_path)
    found = folder.load(folder.files()[0], model)
    record = found.record
    assert (record.id, record.run, record.step, record.optimizer) == (
        "epoch=0-step=4",
        "",
        4,
        "AdamW",
    )
    assert (record.learning_rate, record.weight_decay) == (0.025, 0.01)
    content = TorchFile(tmp_path / found.file).found
    assert content["lr_scheduler_state_dict"] == saved["lr_schedulers"][0]
    assert torch.equal(found.state_dict["weight"], saved["state_dict"]["net.weight"])
    denominators = folder.denominators(found.file, found.sha256, {0: ("weight",)})
    moment = saved["optimizer_states"][0]["state"][0]["exp_avg_sq"]
    expected = (moment / (1 - 0.999**4)).sqrt() + 1e-8
    assert torch.allclose(denominators["weight"], expected)


def test_several_optimisers_are_refused(tmp_path):
    content = in_the_layout(tmp_path)
    content["optimizer_states"] *= 2
    torch.save(content, tmp_path / "epoch=0-step=4.ckpt")
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(InputError, match="holds several optimisers under optimizer_states"):
        folder.load(folder.files()[0], nn.Linear(2, 1))
