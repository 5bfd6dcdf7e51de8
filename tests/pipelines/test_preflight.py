"""A preflight says everything at once, and leaves the audit's results alone."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.datasets import CheckpointsDataset
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.hooks.terminal import Terminal
from sourcetrace.parameters import (
    AttributionParameters,
    GateParameters,
    GradientParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.losses import warn_of_low_precision
from sourcetrace.pipelines.preflight.nodes import check_everything, enforce_preflight
from sourcetrace.reporting.preflight import Preflight, PreflightRefused
from tests.pipelines.test_checkpoint_ingest import Whole, save_run
from tests.tiny import seeded


def preflight(folder, task, *, gate=None, **attribution):
    found = check_everything(
        CheckpointsDataset(path=str(folder)).load(),
        task,
        GradientCache(folder / "cache"),
        SegmentParameters(),
        AttributionParameters(device="cpu", **attribution),
        GradientParameters(),
        None,
        GateParameters(**(gate or {})),
    )
    return Preflight.from_json(found)


def lines(report):
    return {one.title: one for one in report.checks}


def test_a_clean_project_is_ok_in_everything(tmp_path):
    save_run(tmp_path, Whole(), [10, 20, 30])
    before = sorted(tmp_path.rglob("*"))
    report = preflight(tmp_path, Whole())
    assert {one.status for one in report.checks} == {"ok"}
    assert sorted(tmp_path.rglob("*")) == before
    assert enforce_preflight(report.to_json()) == report.to_json()
    assert [(one.step, one.rates, one.step_mass) for one in report.checkpoints] == [
        (step, "constant", pytest.approx(10.0)) for step in (10, 20, 30)
    ]
    assert {one.format for one in report.checkpoints} == {".pt"}
    assert sum(one.share for one in report.layers) == pytest.approx(1)
    said = lines(report)
    assert said["learning rates"].text == "steps 1–30: constant"
    assert said["training data"].text.startswith("all 6 items read")
    assert (
        "of computing (Python and files come on top), in batches of" in said["time and disk"].text
    )


class ThreeFaults(Whole):
    """A label without an output at the last index, and outputs centred over the batch."""

    def train_examples(self):
        inputs, labels = super().train_examples().tensors
        return TensorDataset(torch.cat([inputs] * 10), torch.cat([labels] * 9 + [labels - 3]))

    def train_table(self):
        self.ids = [f"e{i}" for i in range(60)]
        return super().train_table()

    def forward(self, model, batch):
        outputs = super().forward(model, batch)
        return outputs - outputs.mean(0)


def test_several_faults_are_said_at_once(tmp_path):
    for step, rate in ((10, 0.1), (20, 0.05)):
        model = ThreeFaults().build_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        save = {"step": step, "model_state_dict": model.state_dict()}
        torch.save(
            save | {"optimizer_state_dict": optimizer.state_dict()}, tmp_path / f"step_{step}.pt"
        )
    report = preflight(tmp_path, ThreeFaults())
    said = lines(report)
    assert said["learning rates"].status == "warning"
    assert "The learning rate of 10 steps is not recorded" in said["learning rates"].text
    assert said["training data"].status == "refused"
    assert "'e54' (index 54): -3" in said["training data"].text
    assert said["queries alone"].status == "refused"
    assert "it depends on the other examples" in said["queries alone"].text
    assert said["memory"].status == "ok"
    with pytest.raises(
        PreflightRefused, match=r"of 22 checks refused \(.*queries alone.*training d"
    ):
        enforce_preflight(report.to_json())


def test_a_baseline_that_is_not_there_is_refused(tmp_path):
    save_run(tmp_path, Whole(), [10, 20])
    report = preflight(tmp_path, Whole(), gate={"baseline": "nowhere.json"})
    assert report.titles("refused") == ["gate's baseline"]
    assert "there is no file nowhere.json" in lines(report)["gate's baseline"].text


def test_another_curvature_is_said_once(tmp_path):
    class Weak(Whole):
        def sampled_loss(self, outputs, generator, batch=None):
            return 0.1 * super().sampled_loss(outputs, generator, batch)

    save_run(tmp_path, Weak(), [10, 20])
    said = lines(preflight(tmp_path, Weak()))["curvature"]
    assert said.status == "warning"
    assert said.text.count("sampled_loss") == 1


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_needs_something_refused_is_skipped_and_the_rest_goes_on(tmp_path):
    class Lazy(Whole):
        def build_model(self):
            return nn.Sequential(nn.LazyLinear(3))

    save_run(tmp_path, Whole(), [10, 20])
    report = preflight(tmp_path, Lazy())
    said = lines(report)
    assert report.titles("refused") == ["model"]
    assert said["checkpoints"].text == said["attribution"].text == "needs model"
    assert said["training table"].status == said["query table"].status == "ok"
    assert said["repeated reading"].status == "ok"


def test_errors_of_the_users_code_are_lines_too(tmp_path):
    class Broken(Whole):
        def query_table(self):
            raise KeyError("customers")

    save_run(tmp_path, Broken(), [10, 20])
    said = lines(preflight(tmp_path, Broken()))
    assert said["query table"].status == "refused"
    assert said["query table"].text.startswith("task.query_table failed: KeyError: 'customers' (")
    assert said["gradients"].status == "skipped"
    assert said["training table"].status == "ok"


def test_a_model_of_low_precision_is_warned_of(tmp_path, caplog):
    class Low(Whole):
        def build_model(self):
            with seeded(0):
                return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).bfloat16()

        def forward(self, model, batch):
            return model(batch[0].to(next(model.parameters()).dtype)).float()

    class Raised(Low):
        def build_model(self):
            return super().build_model().float()

    save_run(tmp_path, Low(), [10, 20])
    said = lines(preflight(tmp_path, Low()))["precision"]
    assert said.status == "warning"
    assert "weights are bfloat16" in said.text
    assert "Return model.float() from build_model()" in said.text
    assert lines(preflight(tmp_path, Raised()))["precision"].status == "ok"
    assert warn_of_low_precision(nn.Linear(2, 3).half()) == torch.float16
    assert "weights are float16" in caplog.text


def test_what_a_task_says_of_its_data_is_a_line(tmp_path):
    class Notes(Whole):
        notes = ("train: 1 example has the inputs of an earlier one: 'b'", "two")

    save_run(tmp_path, Whole(), [10, 20])
    said = lines(preflight(tmp_path, Notes()))["notes of the task"]
    assert (said.status, said.text) == ("warning", ". ".join(Notes.notes))


def test_the_terminal_shows_every_check_and_cannot_be_written_on(tmp_path):
    class Named(Whole):
        def train_table(self):
            return super().train_table().rename({"example_id": "\x1b[31mid"})

    save_run(tmp_path, Named(), [10, 20])
    report = preflight(tmp_path, Named())
    page = io.StringIO()
    Terminal(Console(file=page, width=100)).print_preflight(report, file="preflight.json")
    shown = page.getvalue()
    assert "\x1b" not in shown
    for title in (*lines(report), "Checkpoints", "step_000020.pt"):
        assert title in shown
    counts = {one: len(report.titles(one)) for one in ("ok", "warning", "refused", "skipped")}
    assert ", ".join(f"{count} {one}" for one, count in counts.items()) in shown
    assert counts["refused"] == 1
    assert counts["skipped"] > 0
    assert sum(counts.values()) == len(report.checks)
