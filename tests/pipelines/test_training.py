"""From checkpoints of different optimisers to the plan, by way of the manifest."""

import json
import logging
from copy import deepcopy
from statistics import median
from uuid import uuid4

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.checkpoints.training.second_moments import denominators_of
from sourcetrace.datasets import CheckpointsDataset, GradientCacheDataset
from sourcetrace.datasets.score_files import stored_scores
from sourcetrace.errors import InputError
from sourcetrace.parameters import (
    AttributionParameters,
    GradientParameters,
    SegmentParameters,
)
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.checkpoint_ingest.thinned import warn_of_many
from sourcetrace.pipelines.ekfac_fitting import preconditioner
from sourcetrace.pipelines.ekfac_fitting.nodes import fit_curvature
from sourcetrace.pipelines.gradient_extraction.nodes import extract_gradients
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.pipelines.shared.inputs import Ingested
from sourcetrace.pipelines.source_scoring.nodes import score_examples
from sourcetrace.schemas import CheckpointManifest, CurvatureSpectra, QueryInfluence
from sourcetrace.tasks import ClassificationTask
from sourcetrace.tasks.losses import FocalLoss

STEPS = (10, 20, 30)


class Tiny(ClassificationTask):
    """Six training examples and two queries in three classes."""

    def __init__(self, stages=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.inputs, self.labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
        self.stages = stages

    def build_model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))

    def train_examples(self):
        return TensorDataset(self.inputs[:6], self.labels[:6])

    def query_examples(self):
        return TensorDataset(self.inputs[6:], self.labels[6:])

    def train_table(self):
        table = pl.DataFrame({"example_id": [f"e{i}" for i in range(6)]})
        return table if self.stages is None else table.with_columns(stage=pl.Series(self.stages))

    def query_table(self):
        return pl.DataFrame({"example_id": ["q0", "q1"]})


def train(folder, make_optimizer, *, make_scheduler=None, stages=None, note=None, task=None):
    """Train and save checkpoints at `STEPS`; return the optimiser's last state."""
    task = task or Tiny()
    model = task.build_model()
    optimizer = make_optimizer(model)
    scheduler = make_scheduler(optimizer) if make_scheduler else None
    saved, rates = [], []
    for step in range(1, STEPS[-1] + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(task.inputs[:6]), task.labels[:6]).backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler:
            scheduler.step()
        if step in STEPS:
            checkpoint = {
                "step": step,
                "model_state_dict": {k: v.clone() for k, v in model.state_dict().items()},
                "optimizer_state_dict": deepcopy(optimizer.state_dict()),
            }
            if scheduler and note == "scheduler":
                checkpoint["lr_scheduler_state_dict"] = scheduler.state_dict()
            if note == "rates":
                checkpoint["learning_rates"] = list(rates)
            if stages:
                checkpoint["stage"] = stages[STEPS.index(step)]
            saved.append(checkpoint)
    CheckpointsDataset(path=str(folder)).save(saved)
    return optimizer.state_dict(), rates


def ingest(folder, task=None, count=1, method="source", **settings):
    checkpoints = CheckpointsDataset(path=str(folder), **settings).load()
    tables = ingest_checkpoints(
        checkpoints,
        task or Tiny(),
        SegmentParameters(count=count),
        AttributionParameters(method=method, device="cpu"),
    )[1:5]
    CheckpointManifest.validate(tables[0])
    return checkpoints, tables


def inputs_of(tmp_path, folder, *, method="source", task=None, count=1, **attribution):
    task = task or Tiny()
    checkpoints, (manifest, _, training, queries) = ingest(folder, task, count, method)
    return {
        "ingested": Ingested(
            task, checkpoints, manifest, training, queries, data="", identity=uuid4().hex
        ),
        "gradient_cache": GradientCacheDataset(path=str(tmp_path / "cache")).load(),
        "gradients": GradientParameters(cache="memory"),
        "attribution": AttributionParameters(method=method, device="cpu", **attribution),
    }


def test_exact_solves_need_a_hessian(tmp_path):
    class Focal(Tiny):
        loss = FocalLoss()

    train(tmp_path / "run", lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    inputs = inputs_of(tmp_path, tmp_path / "run", method="astra_source", task=Focal())
    with pytest.raises(InputError, match="astra_source solves with the Hessian of train_loss"):
        set_up_audit(**inputs)


def roots_of(inputs):
    """Return the preconditioner of every segment."""
    setup = set_up_audit(**inputs)
    return [preconditioner.roots_of(setup, planned) for planned in setup.plan.segments]


def fitted(inputs):
    """Run the stages up to the curvature; return the set-up and what the last of them gave."""
    setup = set_up_audit(**inputs)
    _, signals, *_ = extract_gradients(setup, inputs["gradients"])
    return setup, fit_curvature(setup, signals)


def scored(tmp_path, folder, **settings):
    """Run the numerical stages; return attribution_scores and query_influence."""
    setup, (curvature, *_) = fitted(inputs_of(tmp_path, folder, **settings))
    return score_tables(setup, curvature)[:2]


def score_tables(setup, curvature):
    """Score the examples; return the tables."""
    parts = [files for *files, _ in score_examples(setup, curvature)]
    return [pl.read_parquet([one.path for one in own]) for own in zip(*parts, strict=True)]


def audit(tmp_path, folder, **settings):
    """Run the numerical stages; return the scores, [N, Q]."""
    return scored(tmp_path, folder, **settings)[0]["scores"].to_numpy()


def test_scores_in_half_the_bytes_are_those_of_the_whole_ones_to_three_digits(tmp_path):
    train(tmp_path / "run", adamw)
    whole, harms = scored(tmp_path, tmp_path / "run")
    half, same = scored(tmp_path, tmp_path / "run", precision={"stored_scores": "float16"})
    assert same.equals(harms)
    found = half.select(stored_scores(half.lazy()))["scores"].to_numpy()
    np.testing.assert_allclose(found, whole["scores"].to_numpy(), rtol=2**-11)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def test_adam_is_scored_through_the_second_moments_of_its_checkpoints(tmp_path):
    state, _ = train(tmp_path / "run", adamw)
    inputs = inputs_of(tmp_path, tmp_path / "run")
    (roots,) = roots_of(inputs)
    assert roots.keys() == {"0", "2", "3"}
    assert inputs["ingested"].manifest["optimizer"].to_list() == ["AdamW"] * 3
    # With one checkpoint the mean is the checkpoint's own.
    one = inputs_of(tmp_path, tmp_path / "run", count=3)
    *_, last = roots_of(one)
    moment = state["state"][4]["exp_avg_sq"]
    expected = 1 / ((moment / (1 - 0.999**30)).sqrt() + 1e-8)
    torch.testing.assert_close(last["3"][0, :, :-1].square(), expected)
    scores = audit(tmp_path, tmp_path / "run")
    assert (scores != 0).all()


@pytest.mark.parametrize(
    "kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adafactor, torch.optim.NAdam]
)
def test_other_optimisers_are_scored_through_what_they_divide_by(tmp_path, kind):
    state, _ = train(tmp_path / "run", lambda m: kind(m.parameters(), lr=0.01, weight_decay=0.1))
    inputs = inputs_of(tmp_path, tmp_path / "run", count=3)
    *_, last = roots_of(inputs)
    weights = torch.load(tmp_path / "run" / "step_000030.pt")["model_state_dict"]
    places = {4: ["3.weight"], 5: ["3.bias"]}
    found = denominators_of(tmp_path, state, places, lambda: weights)
    torch.testing.assert_close(last["3"][0, :, :-1].square(), 1 / found["3.weight"])
    assert (audit(tmp_path, tmp_path / "run") != 0).all()


def lion(folder):
    """Give the checkpoints of a training the optimiser's state that Lion would have had."""
    train(folder, adamw)
    for file in folder.glob("*.pt"):
        content = torch.load(file)
        state = content["optimizer_state_dict"]
        for entry in state["state"].values():
            del entry["exp_avg_sq"], entry["step"]
        kept = ("params", "lr", "betas", "weight_decay")
        state["param_groups"] = [{key: state["param_groups"][0][key] for key in kept}]
        torch.save(content, file)


def test_an_approximated_optimiser_is_to_be_accepted_by_name(tmp_path):
    lion(tmp_path / "run")
    with pytest.raises(InputError, match=r"along its averaged.*checkpoints\.accept to \[Lion\]"):
        ingest(tmp_path / "run")
    _, (manifest, *_) = ingest(tmp_path / "run", accept=["Lion"])
    assert set(manifest["optimizer"]) == {"Lion"}
    sources = {one["value"]: one["source"] for one in manifest["sources"].to_list()[0]}
    assert sources["steps"].startswith("assumed: Lion's step is taken for one along its averaged")


@pytest.mark.parametrize("method", ["influence", "tracin"])
def test_methods_that_follow_no_steps_take_no_preconditioner(tmp_path, method):
    train(tmp_path / "run", adamw)
    inputs = inputs_of(tmp_path, tmp_path / "run", method=method)
    assert roots_of(inputs) == [{}]


def test_safetensors_with_second_moments_give_the_same_scores(tmp_path):
    train(tmp_path / "run", adamw)
    expected = audit(tmp_path, tmp_path / "run")
    copy = tmp_path / "copy"
    copy.mkdir()
    names = [name for name, _ in Tiny().build_model().named_parameters()]
    for file in (tmp_path / "run").glob("*.pt"):
        content = torch.load(file)
        save_file(content["model_state_dict"], copy / f"{file.stem}.safetensors")
        state = content["optimizer_state_dict"]["state"]
        (copy / f"{file.stem}.json").write_text(
            f'{{"step": {content["step"]}, "optimizer": "AdamW", "learning_rate": 0.01, '
            '"weight_decay": 0.1}'
        )
        if content["step"] == 10:
            with pytest.raises(InputError, match=r"step_000010\.optimizer\.safetensors is missing"):
                ingest(copy)
        save_file(
            {f"exp_avg_sq.{name}": state[i]["exp_avg_sq"] for i, name in enumerate(names)},
            copy / f"{file.stem}.optimizer.safetensors",
        )
    found = audit(tmp_path, copy)
    assert found == pytest.approx(expected, rel=1e-4)
    _, (manifest, *_) = ingest(copy)
    sources = {one["value"]: one["source"] for one in manifest["sources"].to_list()[0]}
    assert sources["step"] == sources["momentum"] == "step_000010.json"
    assert sources["second_moments"] == "step_000010.optimizer.safetensors"


def test_sidecars_may_have_parameter_groups(tmp_path):
    model = Tiny().build_model()
    settings = {"learning_rate": 0.1, "parameters": ["0.weight", "0.bias"]}
    head = {"learning_rate": 0.2, "momentum": 0.5, "parameters": ["_orig.weight"]}
    content = {"step": 10, "parameter_groups": [settings, head]}
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"model does not: _orig\.weight"):
        ingest(tmp_path)
    head["parameters"] = ["3.weight", "3.bias"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    _, (manifest, left_out, *_) = ingest(tmp_path)
    masses = [group["step_mass"] for group in manifest["parameter_groups"][0].to_list()]
    assert masses == pytest.approx([1.0, 4.0])
    assert set(left_out["reason"]) == {"not given to the optimiser"}
    # For Adam, what has no second moment was never moved, and a moment's shape must fit.
    (tmp_path / "a.json").write_text(json.dumps({**content, "optimizer": "Adam"}))
    moments = {"0.weight": torch.rand(4, 3), "0.bias": torch.rand(4)}
    moments = {f"exp_avg_sq._orig_mod.{name}": moment for name, moment in moments.items()}
    save_file(moments, tmp_path / "a.optimizer.safetensors")
    _, (manifest, left_out, *_) = ingest(tmp_path)
    groups = manifest["parameter_groups"][0].to_list()
    assert [group["parameters"] for group in groups] == [["0.weight", "0.bias"], []]
    save_file({"exp_avg_sq.0.weight": torch.rand(3, 4)}, tmp_path / "a.optimizer.safetensors")
    with pytest.raises(InputError, match=r"state of 0\.weight has shape \[3, 4\]"):
        ingest(tmp_path)


def by_layer(model):
    return torch.optim.SGD(
        [
            {"params": list(model[0].parameters())},
            {"params": list(model[2].parameters()), "lr": 0.3, "weight_decay": 0.1},
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )


def test_groups_have_their_own_masses_and_what_no_group_has_is_named(tmp_path):
    train(tmp_path / "run", by_layer)
    inputs = inputs_of(tmp_path, tmp_path / "run")
    setup = set_up_audit(**inputs)
    (planned,) = setup.plan.segments
    flat = torch.zeros(1)
    assert planned.segment.settings["0.bias"].step_mass == pytest.approx(30.0)
    assert planned.segment.settings["2.weight"].step_mass == pytest.approx(90.0)
    assert planned.filter_of("0").response(flat).item() == pytest.approx(30.0)
    _, (manifest, left_out, *_) = ingest(tmp_path / "run")
    assert left_out.rows() == [
        ("3.weight", 12, "not given to the optimiser"),
        ("3.bias", 3, "not given to the optimiser"),
    ]
    assert manifest["attributed_share"][0] == pytest.approx(36 / 51)
    groups = manifest["parameter_groups"][0].to_list()
    assert [group["parameters"] for group in groups] == [
        ["0.weight", "0.bias"],
        ["2.weight", "2.bias"],
    ]
    assert (audit(tmp_path, tmp_path / "run") != 0).all()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)


@pytest.mark.parametrize(
    ("note", "source"), [("rates", "recorded"), ("scheduler", "reconstructed")]
)
def test_the_rate_of_every_step_counts_where_it_is_known(tmp_path, caplog, note, source):
    with caplog.at_level(logging.WARNING):
        _, rates = train(tmp_path / "run", sgd, make_scheduler=cosine, note=note)
        _, (manifest, *_) = ingest(tmp_path / "run")
    expected = [sum(rates[start : start + 10]) for start in (0, 10, 20)]
    assert manifest["step_mass"].to_list() == pytest.approx(expected)
    assert manifest["learning_rate_source"].to_list() == [source] * 3
    assert "not recorded" not in caplog.text


def test_every_value_says_where_it_comes_from(tmp_path, caplog):
    train(tmp_path / "run", adamw, make_scheduler=cosine, note="scheduler")
    with caplog.at_level(logging.DEBUG, logger="sourcetrace"):
        _, (manifest, *_) = ingest(tmp_path / "run")
    settings = ("optimizer", "learning_rate", "momentum", "weight_decay", "second_moments")
    expected = dict.fromkeys(settings, "optimizer_state_dict") | {
        "step": "step",
        "stage": "none is named",
        "clipping": "assumed: no gradient was clipped",
        "step_mass": "scheduler in step_000030.pt",
    }
    for sources in manifest["sources"].to_list():
        assert {one["value"]: one["source"] for one in sources} == expected
    assert "stage: none is named; step_mass: scheduler in step_000030.pt" in caplog.text


def test_a_step_that_counts_accumulated_batches_is_warned_of(tmp_path, caplog):
    train(tmp_path / "run", adamw)
    with caplog.at_level(logging.WARNING):
        ingest(tmp_path / "run")
        assert "accumulated" not in caplog.text
        for file in (tmp_path / "run").glob("*.pt"):
            content = torch.load(file)
            torch.save({**content, "step": 4 * content["step"]}, file)
        ingest(tmp_path / "run")
    assert "step rises by 40, but the optimiser made 10 steps" in caplog.text
    assert "4 times what they should be" in caplog.text


def test_rates_of_two_origins_name_both(tmp_path):
    _, rates = train(tmp_path / "run", sgd, make_scheduler=cosine)
    file = tmp_path / "run" / "step_000030.pt"
    torch.save({**torch.load(file), "learning_rates": rates[20:]}, file)
    task = Tiny(stages=["a"] * 3 + ["b"] * 3)
    _, (manifest, *_) = ingest(tmp_path / "run", task, 2, stages={"a": 25, "b": 30})
    found = [{s["value"]: s["source"] for s in one} for one in manifest["sources"].to_list()]
    assert [one["stage"] for one in found] == ["checkpoints.stages"] * 3
    line, known = (
        "assumed: a straight line between the checkpoints",
        "learning_rates in " + file.name,
    )
    assert [one["step_mass"] for one in found] == [line, f"{known}, then {line}", known]


def test_a_file_of_rates_fills_what_checkpoints_leave_open(tmp_path):
    _, rates = train(tmp_path / "run", sgd, make_scheduler=cosine)
    file = tmp_path / "rates.csv"
    lines = [f"{step},{rate}" for step, rate in enumerate(rates, start=1)]
    file.write_text("\n".join(["step,learning_rate", *lines]))
    _, (manifest, *_) = ingest(tmp_path / "run", learning_rates=str(file))
    assert manifest["step_mass"].sum() == pytest.approx(sum(rates))
    assert set(manifest["learning_rate_source"]) == {"recorded"}


def test_a_few_checkpoints_of_more_stand_for_the_steps_of_all(tmp_path, caplog):
    train(tmp_path / "run", sgd, make_scheduler=cosine, note="rates")
    _, (every, *_) = ingest(tmp_path / "run")
    with caplog.at_level(logging.INFO):
        folder, (manifest, *_) = ingest(tmp_path / "run", at_most=2)
    assert "Audited of 3 checkpoints: step_000010, step_000030" in caplog.text
    assert manifest["step"].to_list() == [10, 30]
    masses = every["step_mass"].to_list()
    assert manifest["step_mass"].to_list() == pytest.approx([masses[0], masses[1] + masses[2]])
    (group,) = manifest["parameter_groups"].to_list()[1]
    assert group["step_mass"] == pytest.approx(masses[1] + masses[2])
    # What is left out counts for the rates, and so for what the audit is of.
    identity, *_ = ingest_checkpoints(
        folder,
        Tiny(),
        SegmentParameters(),
        AttributionParameters(device="cpu"),
    )
    assert identity["checkpoints"] == MadeOf.checkpoints_part(folder.digests())
    assert folder.file_digests().keys() == {*every["file"]}
    with pytest.raises(InputError, match=r"at_most is 1, but 2 checkpoints must be kept: step_0"):
        ingest(tmp_path / "run", at_most=1)


def test_many_checkpoints_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_many(50)
        assert caplog.text == ""
        warn_of_many(51)
    assert "51 checkpoints: every one costs a pass" in caplog.text
    assert "Set checkpoints.at_most" in caplog.text


def test_weights_are_read_of_those_alone_that_are_kept(tmp_path):
    train(tmp_path / "run", sgd)
    file = tmp_path / "run" / "step_000020.pt"
    torch.save({**torch.load(file), "model_state_dict": {"0.weight": torch.zeros(1)}}, file)
    with pytest.raises(InputError, match="step_000020"):
        ingest(tmp_path / "run")
    _, (manifest, *_) = ingest(tmp_path / "run", at_most=2)
    assert manifest["step"].to_list() == [10, 30]


def test_an_unknown_schedule_is_filled_and_the_run_says_how_much(tmp_path, caplog):
    _, rates = train(tmp_path / "run", sgd, make_scheduler=cosine)
    with caplog.at_level(logging.WARNING):
        _, (manifest, *_) = ingest(tmp_path / "run")
    assert manifest["learning_rate_source"].to_list() == ["interpolated"] * 3
    assert manifest["step_mass"].sum() == pytest.approx(sum(rates), rel=0.05)
    assert "30 steps is not recorded (of steps 1–10, 11–20, 21–30)" in caplog.text
    assert "100.0 % of the step mass" in caplog.text


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, 40)


def test_momentum_that_a_scheduler_moves_is_its_own_or_warned_of(tmp_path, caplog):
    def heavy(model):
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    train(tmp_path / "run", heavy, make_scheduler=one_cycle, note="scheduler")
    with caplog.at_level(logging.WARNING):
        _, (manifest, *_) = ingest(tmp_path / "run")
    assert "momentum" not in caplog.text
    model = Tiny().build_model()
    optimizer = heavy(model)
    scheduler = one_cycle(optimizer)
    true = []
    for _ in range(STEPS[-1]):
        true.append(optimizer.param_groups[0]["lr"] / (1 - optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    expected = [sum(true[start : start + 10]) for start in (0, 10, 20)]
    assert manifest["step_mass"].to_list() == pytest.approx(expected)
    train(tmp_path / "unsaid", heavy, make_scheduler=one_cycle, note="rates")
    with caplog.at_level(logging.WARNING):
        ingest(tmp_path / "unsaid")
    assert "momentum changed on the way to step_000010 (0.8" in caplog.text


def test_a_scheduler_may_be_older_than_the_stage(tmp_path):
    stages = ["first", "second", "second"]
    _, rates = train(tmp_path / "run", sgd, make_scheduler=cosine, stages=stages, note="scheduler")
    task = Tiny(stages=["first"] * 3 + ["second"] * 3)
    _, (manifest, *_) = ingest(tmp_path / "run", task, 2, stages={"first": 15, "second": 30})
    expected = [sum(rates[:15]), sum(rates[15:20]), sum(rates[20:])]
    assert manifest["step_mass"].to_list() == pytest.approx(expected)
    assert set(manifest["learning_rate_source"]) == {"reconstructed"}


def test_a_record_of_another_length_is_refused(tmp_path):
    train(tmp_path / "run", sgd)
    for file in (tmp_path / "run").glob("*.pt"):
        torch.save({**torch.load(file), "learning_rates": [0.1] * 7}, file)
    with pytest.raises(InputError, match="learning_rates has 7 values; expected 10, one a step"):
        ingest(tmp_path / "run")


def test_a_stages_steps_behind_its_last_checkpoint_are_its_own(tmp_path):
    train(tmp_path / "run", sgd, stages=["first", "second", "second"])
    task = Tiny(stages=["first"] * 3 + ["second"] * 3)
    _, (manifest, *_) = ingest(tmp_path / "run", task, 2, stages={"first": 15, "second": 30})
    assert manifest["step_mass"].to_list() == pytest.approx([1.5, 0.5, 1.0])


def test_a_measured_scale_is_logged_and_used(tmp_path):
    train(tmp_path / "run", lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    inputs = inputs_of(tmp_path, tmp_path / "run", method="source", count=2)
    _, (plain, spectra, nothing) = fitted(inputs)
    assert not any(name.startswith("curvature_scale") for name in nothing)
    inputs = inputs_of(tmp_path / "scaled", tmp_path / "run", method="scaled_source", count=2)
    _, (scaled, scaled_spectra, metrics) = fitted(inputs)
    scales = {name for name in metrics if name.startswith("curvature_scale")}
    assert scales == {"curvature_scale_segment_1", "curvature_scale_segment_2"}
    for number, (before, after) in enumerate(zip(plain, scaled, strict=True), start=1):
        scales = []
        for name, block in before.items():
            factors = after[name].eigenvalues / block.eigenvalues
            assert torch.allclose(factors, factors.mean(), rtol=1e-4)
            scales.append(float(factors.mean()))
            for table, ones in ((spectra, before), (scaled_spectra, after)):
                (row,) = table.filter(segment=number, layer=name).iter_rows(named=True)
                eigenvalues = ones[name].eigenvalues
                assert row["eigenvalues"] == eigenvalues.numel()
                assert row["trace"] == pytest.approx(float(eigenvalues.sum()), rel=1e-5)
                assert row["quantiles"][-1] == float(eigenvalues.max())
        logged = metrics[f"curvature_scale_segment_{number}"]["value"]
        assert logged == pytest.approx(median(scales), rel=1e-4)
        assert logged != 1
    assert CurvatureSpectra.validate(spectra).height == sum(map(len, plain))


def test_stages_as_names_and_as_lists_of_one_give_the_same_bytes(tmp_path):
    train(tmp_path / "run", sgd, stages=["first", "second", "second"])
    names = ["first"] * 3 + ["second"] * 3
    named, listed, mixed = (
        scored(tmp_path, tmp_path / "run", count=2, task=Tiny(stages=stages))
        for stages in (names, [[name] for name in names], [["first", "second"], *[["second"]] * 5])
    )
    for one, other in zip(named, listed, strict=True):
        assert one.equals(other)
    assert not named[0].equals(mixed[0])


def test_the_error_of_a_harm_is_that_of_its_checkpoints_and_its_queries(tmp_path):
    train(tmp_path / "run", sgd)
    scores, influence = scored(tmp_path, tmp_path / "run")
    QueryInfluence.validate(influence)
    values = scores["scores"].to_numpy().astype(float)
    # Two queries: the standard deviation is their distance over the root of 2.
    assert influence["harm_error_queries"].to_numpy() == pytest.approx(
        abs(values[:, 0] - values[:, 1]), rel=1e-4
    )
    assert (influence["harm_error_checkpoints"] > 0).all()
    squares = (pl.col("harm_error_checkpoints") ** 2 + pl.col("harm_error_queries") ** 2).sqrt()
    assert influence["harm_error"].to_list() == pytest.approx(influence.select(squares).to_series())
    stable = abs(influence["harm"]) > 2 * influence["harm_error"]
    assert influence["sign_stable"].equals(stable, check_names=False)
    _, alone = scored(tmp_path, tmp_path / "run", count=3)
    assert alone["harm_error_checkpoints"].to_list() == [0.0] * 6
