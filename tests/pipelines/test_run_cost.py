"""What a run says of its cost, before and after, and the batch size that all stages share."""

import logging
import re
from dataclasses import replace

import polars.selectors as cs
import pytest
import torch
from polars.testing import assert_frame_equal

from sourcetrace.core.methods import memory_needs
from sourcetrace.core.plan import batch_size
from sourcetrace.datasets.gradient_cache import GradientCache
from sourcetrace.parameters import AttributionParameters, GradientParameters
from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature
from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients
from sourcetrace.pipelines.gradient_extraction.work import extract
from sourcetrace.pipelines.set_up.costs import plan_costs
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.source_scoring.nodes import score_examples
from tests.pipelines.test_training import Tiny, inputs_of, score_tables, train

STAGES = ("gradient_extraction", "ekfac_fitting", "source_scoring")


@pytest.fixture
def inputs(tmp_path):
    train(tmp_path / "run", lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    return inputs_of(tmp_path, tmp_path / "run", method="scaled_source")


def run(inputs):
    """Run the numerical stages and return all metrics, as MLflow gets them."""
    setup = set_up_audit(**inputs)
    _, signals, *_, extracted = extract_gradients(setup, inputs["gradients"])
    curvature, _, fitted = fit_curvature(setup, signals)
    (*_, scored), *others = score_examples(setup, curvature)
    assert not any(block[-1] for block in others)
    return extracted | fitted | scored


def test_every_stage_says_what_it_did(inputs, caplog):
    with caplog.at_level(logging.INFO):
        metrics = run(inputs | {"gradients": GradientParameters(cache="memory", batch_size=2)})
    for stage in STAGES:
        done = {
            name: metrics[f"work.{stage}.{name}"]["value"] for name in ("seconds", "peak_bytes")
        }
        assert all(value > 0 for value in done.values()), (stage, done)
    for title in ("Gradient extraction took", "EK-FAC fitting took", "Source scoring took"):
        assert caplog.text.count(title) == 1


def test_the_bars_end_at_their_totals(inputs, capsys):
    run(inputs | {"gradients": GradientParameters(cache="memory", batch_size=2)})
    ended = re.findall(r"^(\w[\w ]*\w) .* (\d+)/(\d+) ", capsys.readouterr().err, re.MULTILINE)
    assert "Scoring" in [name for name, *_ in ended]
    assert all(done == total for _, done, total in ended), ended


def test_the_cost_comes_before_the_work_and_is_what_the_work_took(inputs, caplog):
    with caplog.at_level(logging.DEBUG, logger="sourcetrace"):
        metrics = run(inputs)
    said, did = (
        caplog.text.index(one) for one in ("Computing takes about", "Gradient extraction took")
    )
    assert said < did
    # The other stages' parts of it are said again when one has ended.
    assert caplog.text.count("of computing left") == 2
    # Six examples, four sampled labels, three checkpoints; two queries there and once more.
    assert "This run takes 80 forward passes and 148 backward passes of an example" in caplog.text
    parts = ("passes", "covariances", "eigendecompositions", "corrected_eigenvalues")
    for name in (*parts, "scoring", "self_influence"):
        assert metrics[f"cost.{name}.seconds"]["value"] > 0


def test_lower_precisions_say_their_error(inputs, caplog):
    precision = {"passes": "bfloat16", "curvature": "tf32", "scores": "tf32"}
    lower = AttributionParameters(device="cpu", precision=precision)
    with caplog.at_level(logging.INFO):
        metrics = run(inputs | {"attribution": lower})
    assert 1e-4 < metrics["precision_error.passes"]["value"] < 0.1
    assert metrics["precision_error.curvature"]["value"] < 1e-4
    assert (
        "attribution.precision.passes: in bfloat16, examples' gradients are off by" in caplog.text
    )
    assert "attribution.precision.curvature: in tf32, examples' squares in" in caplog.text
    assert "Scores are multiplied in tf32, and are off by" in caplog.text
    assert not any(name.startswith("precision_error") for name in run(inputs))


def test_methods_without_curvature_have_no_fit_to_pay_for(inputs):
    metrics = run(inputs | {"attribution": AttributionParameters(method="tracin", device="cpu")})
    assert "cost.eigendecompositions.seconds" not in metrics
    assert "work.ekfac_fitting.seconds" not in metrics
    assert metrics["cost.scoring.seconds"]["value"] > 0


@pytest.mark.parametrize("method", ["source", "scaled_source", "trak"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("cache", ["disk", "recompute"])
def test_layers_in_groups_score_as_all_at_once(tmp_path, monkeypatch, method, optimizer, cache):
    """Little memory: every layer by itself."""
    train(tmp_path / "run", lambda model: optimizer(model.parameters(), lr=0.01))
    inputs = inputs_of(tmp_path, tmp_path / "run", method=method)
    inputs["gradients"] = GradientParameters(cache=cache, batch_size=2)

    def tables():
        setup = set_up_audit(**inputs)
        _, signals, *_ = extract_gradients(setup, inputs["gradients"])
        sums = {
            (point, name): one.tensors()
            for point, layers in extract(setup).covariances.items()
            for name, one in layers.items()
        }
        curvature, *_ = fit_curvature(setup, signals)
        return setup.needs, sums, score_tables(setup, curvature)

    whole, together, expected = tables()
    monkeypatch.setattr(memory_needs, "_SHARE", 0.0)
    needs, sums, found = tables()
    assert sums.keys() == together.keys()
    for name, tensors in sums.items():  # in the same bits
        assert all(torch.equal(one, together[name][part]) for part, one in tensors.items())
    assert all(len(stage.groups) == 1 for stage in whole.stages.values())
    assert len(needs.extraction.groups) > 1
    if method != "trak":
        assert min(len(needs.scoring.groups), len(needs.fitting.groups)) > 1
    assert len(found) == len(expected) == 5
    for table, same in zip(found, expected, strict=True):
        # Not most_harmed_query and the like: ties may be broken the other way.
        chosen = table.select(cs.float()), same.select(cs.float())
        assert_frame_equal(*chosen, rel_tol=1e-3, abs_tol=1e-6)
    assert not list((tmp_path / "cache").glob("set-aside-*"))


class Many(Tiny):
    """Six hundred examples, so that the batch has a choice."""

    def __init__(self, stages=None):
        super().__init__(stages)
        self.inputs, self.labels = self.inputs.repeat(100, 1), self.labels.repeat(100)

    def train_examples(self):
        return torch.utils.data.TensorDataset(self.inputs[:600], self.labels[:600])

    def train_table(self):
        import polars as pl

        return pl.DataFrame({"example_id": [f"e{i}" for i in range(600)]})

    def query_examples(self):
        return torch.utils.data.TensorDataset(self.inputs[600:602], self.labels[600:602])


def test_runs_of_the_same_audit_keep_the_size_however_much_memory_there_is_then(
    inputs, tmp_path, monkeypatch
):
    inputs = inputs_of(tmp_path, tmp_path / "run", task=Many())
    setup = set_up_audit(**inputs)
    assert setup.engine.batch_size == 128  # four blocks at least
    monkeypatch.setattr(batch_size, "free_memory", lambda _: 0)
    # As a later run does, of the last stages alone.
    again = set_up_audit(**(inputs | {"gradient_cache": GradientCache(tmp_path / "cache")}))
    assert again.engine.batch_size == again.grid.batch_size == 128
    # Of another audit, the size is chosen anew.
    other = inputs | {"ingested": replace(inputs["ingested"], identity="others")}
    assert set_up_audit(**other).engine.batch_size == 1


def test_a_number_is_taken_as_it_is(inputs):
    given = inputs | {"gradients": GradientParameters(cache="memory", batch_size=5)}
    assert set_up_audit(**given).engine.batch_size == 5


def test_a_size_that_is_no_size_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        GradientParameters(batch_size="all")
    with pytest.raises(ValueError, match="batch_size"):
        GradientParameters(batch_size=0)


def costs_of(setup, gradients):
    return plan_costs(
        setup.engine,
        setup.plan,
        setup.needs,
        setup.cache,
        setup.attribution,
        gradients,
        queries=len(setup.queries),
    )


@pytest.mark.parametrize(("seconds", "policy"), [(0.0, "disk"), (1e9, "recompute")])
def test_gradients_lie_on_disk_where_that_is_quicker(inputs, monkeypatch, seconds, policy):
    gradients = GradientParameters(memory_budget_gib=0.0)
    setup = set_up_audit(**inputs | {"gradients": gradients})
    monkeypatch.setattr(GradientCache, "disk_seconds", lambda *_: seconds)
    assert costs_of(setup, gradients).policy == policy
    nowhere = gradients.model_copy(update={"disk_budget_gib": 0.0})
    assert costs_of(setup, nowhere).policy == "recompute"


def test_trying_the_disk_leaves_nothing_on_it(tmp_path):
    cache = GradientCache(tmp_path / "not" / "yet")
    assert cache.disk_seconds({"given/layer/values": torch.ones(3, 2)}) > 0
    assert not list(tmp_path.iterdir())
