"""The verification: what is left out, what is refused, and what outcomes say of scores."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.errors import InputError
from sourcetrace.parameters import TaskParameters, VerificationParameters
from sourcetrace.pipelines.verification.groups import Group
from sourcetrace.pipelines.verification.measures import Measure, Retrained
from sourcetrace.pipelines.verification.nodes import measure_trust, plan_retrainings
from sourcetrace.pipelines.verification.retraining import Job
from sourcetrace.schemas import (
    VerificationPlan,
    VerificationQueries,
    VerificationRemovals,
    VerificationSummary,
)
from tests.verifiable import (
    EXAMPLES,
    QUERIES,
    CountingTask,
    exact_scores,
    signals,
    write_scores,
)

SMALL = VerificationParameters(subsets=8, seeds=2, removal_queries=2, removal_sizes=[0.1, 5])


def test_every_stage_keeps_its_share_and_at_least_one_example():
    stages = pl.Series(["a"] * 10 + ["b"] * 3 + ["c"])
    subsets = Group.subsets(stages, VerificationParameters(subsets=5, fraction=0.3))
    for subset in subsets:
        kept = (
            stages.to_frame("stage").with_row_index().filter(~pl.col("index").is_in(subset.removed))
        )
        assert dict(kept["stage"].value_counts().iter_rows()) == {"a": 3, "b": 1, "c": 1}
    assert len({tuple(subset.removed) for subset in subsets}) == 5
    again = Group.subsets(stages, VerificationParameters(subsets=9, fraction=0.3))
    assert all(np.array_equal(a.removed, b.removed) for a, b in zip(subsets, again, strict=False))


def test_subsets_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"subsets\n.*greater than or equal to 3"):
        VerificationParameters(subsets=2)
    with pytest.raises(InputError, match=r"leaves none out\. Lower it"):
        Group.subsets(pl.Series(["a"] * 6), VerificationParameters(fraction=0.99))


def test_sizes_are_shares_below_1_and_counts_from_1_on():
    sizes = VerificationParameters(removal_sizes=[3, 0.1, 0.001, 1]).removal_counts(40)
    assert sizes == [1, 3, 4]
    with pytest.raises(InputError, match="removal of 21 of 40"):
        VerificationParameters(removal_sizes=[21]).removal_counts(40)


@pytest.mark.parametrize("better", [1, -1])
def test_helpers_are_those_whose_removal_makes_the_query_worse(tmp_path, better):
    scores = np.zeros((EXAMPLES, QUERIES), dtype=np.float32)
    scores[[4, 7, 9], 3] = [-3.0, -2.0, 5.0]
    files = write_scores(tmp_path, better * scores)
    classes = pl.Series([str(i % 2) for i in range(EXAMPLES)])
    groups = Group.removals(
        files, [3], classes, better=better, verification=VerificationParameters(removal_sizes=[2])
    )
    helpers, random = groups
    assert (helpers.kind, random.kind, helpers.query) == ("helpers", "random", 3)
    assert helpers.removed.tolist() == [4, 7]
    assert sorted(random.removed % 2) == [0, 1]


def test_summed_scores_are_what_each_group_leaves_out(tmp_path):
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(EXAMPLES, QUERIES)).astype(np.float32)
    files = write_scores(tmp_path, scores)
    plan = pl.DataFrame({"removed": [[], [0], [3, 11, 12, 19]]})
    found = files.sums_over(plan["removed"])
    expected = [scores[rows].astype(float).sum(0) for rows in ([], [0], [3, 11, 12, 19])]
    assert found == pytest.approx(np.array(expected), rel=1e-12, abs=1e-12)


@pytest.fixture
def audited(tmp_path):
    """What an audit of the counting task left, as the nodes' arguments."""
    folder = tmp_path / "trained"
    folder.mkdir()
    task = CountingTask(str(folder))
    files = write_scores(tmp_path / "scores", exact_scores())
    return {
        "score_files": files,
        "audit_summary": {"scores_digest": files.digest()},
        "task": task,
        "train_table": task.train_table(),
        "query_table": task.query_table(),
        "query_signals": signals(task),
    }


def test_the_plan_has_everything_subsets_and_removals(audited):
    plan = plan_retrainings(**audited, verification=SMALL)
    VerificationPlan.validate(plan)
    kinds = dict(plan["kind"].value_counts().iter_rows())
    assert kinds == {"all": 1, "subset": 8, "helpers": 4, "random": 4}
    chosen = plan["query"].drop_nulls().unique().to_list()
    right = audited["query_signals"]["predicted_label"] == audited["query_table"]["label"]
    assert all(right[query] for query in chosen)
    assert plan.equals(plan_retrainings(**audited, verification=SMALL))


def test_what_cannot_be_verified_is_refused_beforehand(audited):
    for changes, message in (
        ({"task": object()}, r"object has no train.* nothing can be trained again"),
        ({"audit_summary": {}}, "written for other scores"),
    ):
        with pytest.raises(InputError, match=message):
            plan_retrainings(**{**audited, **changes}, verification=SMALL)


def linear_world(*, noise=0.0, factor=1.0):
    """Return a retrained world in which removals change measurements by `factor` x the scores."""
    generator = np.random.default_rng(5)
    scores = generator.normal(size=(EXAMPLES, QUERIES))
    removed = [[]] + [sorted(generator.permutation(EXAMPLES)[:10].tolist()) for _ in range(12)]
    kinds, queries = ["all"] + ["subset"] * 12, [None] * 13
    for query in range(4):
        order = np.argsort(scores[:, query])
        removed += [
            sorted(order[:3].tolist()),
            sorted(generator.permutation(EXAMPLES)[:3].tolist()),
        ]
        kinds += ["helpers", "random"]
        queries += [query, query]
    plan = pl.DataFrame({"kind": kinds, "query": queries, "removed": removed})
    predicted = np.stack([scores[rows].sum(0) for rows in removed])
    shape = (len(removed), 4, QUERIES)
    measured = 1 + factor * predicted[:, None] + noise * generator.normal(size=shape)
    return Retrained(
        plan=plan,
        predicted=torch.from_numpy(predicted),
        measured=torch.from_numpy(measured),
        labels=np.where(measured > 0, "up", "down"),
        examples=EXAMPLES,
    )


def values(measures):
    return {(item.measure, item.removed): item.value for item in measures}


def test_in_a_world_as_predicted_all_is_1():
    world = linear_world()
    per_query, measures = world.subset_measures()
    found = values(measures)
    assert per_query.tolist() == pytest.approx([1.0] * QUERIES)
    assert found["lds", None] == pytest.approx(1)
    assert found["ceiling", None] == pytest.approx(1)
    assert found["lds_of_ceiling", None] == pytest.approx(1)
    assert found["fraction", None] == 0.5
    removed = world.removal_table(pl.Series([f"q{i}" for i in range(QUERIES)]))
    VerificationRemovals.validate(removed)
    assert values(Measure.of_removals(removed))["removal_slope", None] == pytest.approx(1)


def test_scores_in_other_units_keep_the_ranks_and_lose_the_slope():
    world = linear_world(factor=0.2)
    assert values(world.subset_measures()[1])["lds", None] == pytest.approx(1)
    removed = world.removal_table(pl.Series([f"q{i}" for i in range(QUERIES)]))
    assert values(Measure.of_removals(removed))["removal_slope", None] == pytest.approx(0.2)


def test_flips_are_counted_against_training_on_everything_with_the_same_seed():
    world = linear_world()
    labels = np.full((21, 4, QUERIES), "up")
    labels[0, 3, 0] = "down"
    # Of query 0's helpers: seed 1 flips; seed 3 says "up" where all examples said "down".
    labels[13, 1, 0] = "down"
    ids = pl.Series([f"q{i}" for i in range(QUERIES)])
    removed = dataclasses.replace(world, labels=labels).removal_table(ids)
    first = removed.filter(kind="helpers", query_id="q0").row(0, named=True)
    assert first["flipped_share"] == 0.5
    assert removed.filter(kind="helpers", query_id="q1")["flipped_share"].item() == 0
    found = values(Measure.of_removals(removed))
    assert found["flips_helpers", 3] == pytest.approx(0.125)
    without = dataclasses.replace(world, labels=None).removal_table(removed["query_id"])
    assert ("flips_helpers", 3) not in values(Measure.of_removals(without))


def test_noise_lowers_figure_and_ceiling_alike():
    found = values(linear_world(noise=4.0).subset_measures()[1])
    assert 0 < found["lds", None] < 0.95
    assert found["ceiling", None] < 0.95


def test_another_recipe_shows_in_the_agreement():
    world = linear_world(noise=0.01)
    same = world.measured[0].mean(0)
    world.measured[0] += torch.linspace(0, 5, QUERIES)
    agreement, between = world.recipe_measures(same + torch.linspace(0, 5, QUERIES))
    assert (agreement.value, between.value) == pytest.approx((1, 1))
    assert world.recipe_measures(-torch.linspace(0, 5, QUERIES))[0].value == pytest.approx(-1)


def test_what_cannot_be_measured_is_empty_in_the_summary():
    world = linear_world()
    one_seed = dataclasses.replace(world, measured=world.measured[:, :1])
    _, measures = one_seed.subset_measures()
    summary = Measure.table(measures, method="source", scores_digest="0")
    VerificationSummary.validate(summary)
    assert summary.filter(measure="ceiling")["value"].item() is None


def test_trust_belongs_to_the_scores_that_were_verified(audited, tmp_path):
    plan = plan_retrainings(**audited, verification=SMALL)
    seeds = 2
    task = audited["task"]
    rows = []
    for removed in plan["removed"].to_list():
        for seed in range(seeds):
            model = task.train([i for i in range(EXAMPLES) if i not in removed], seed=seed)
            batch = task.query_examples().tensors
            outputs = model(batch[0])
            described = task.describe(outputs, batch)["predicted_label"]
            rows.append((task.measurement(outputs, batch).tolist(), described))
    outcomes = pl.DataFrame(
        rows,
        schema={"measurements": pl.List(pl.Float64), "predicted_labels": pl.List(pl.String)},
        orient="row",
    )
    arguments = {
        **{
            name: audited[name]
            for name in ("score_files", "train_table", "query_table", "query_signals")
        },
        "verification_plan": plan,
        "verification_outcomes": outcomes,
        "query_influence": pl.DataFrame({"method": ["source"] * EXAMPLES}),
    }
    summary, queries, removed, metrics = measure_trust(**arguments)
    VerificationSummary.validate(summary)
    VerificationQueries.validate(queries)
    VerificationRemovals.validate(removed)
    assert set(summary["scores_digest"]) == {audited["score_files"].digest()}
    # Classes alone decide this task's outcomes: random examples of the same do as much.
    assert metrics["removal_slope"]["value"] > 0.5
    assert metrics["change_helpers_5"]["value"] < 0
    assert metrics["change_random_5"]["value"] == pytest.approx(
        metrics["change_helpers_5"]["value"]
    )
    write_scores(tmp_path / "scores", 2 * exact_scores())
    with pytest.raises(InputError, match="scores have changed since"):
        measure_trust(**arguments)


def test_a_retraining_is_known_by_everything_that_decides_it():
    parameters = TaskParameters.model_validate({"class": "tests.verifiable.CountingTask"})
    changed = parameters.model_copy(update={"arguments": {"pause": 1.0}})
    base = MadeOf.retraining_part(parameters, recipe=None, data="its data")
    others = {
        MadeOf.retraining_part(changed, recipe=None, data="its data"),
        MadeOf.retraining_part(parameters, recipe={"epochs": 3}, data="its data"),
        MadeOf.retraining_part(parameters, recipe=None, data="other data"),
    }
    assert len(others | {base}) == 4
    plan = pl.DataFrame(
        {"group": ["a", "b"], "removed": [[1], [2]]},
        schema_overrides={"removed": pl.List(pl.Int32)},
    )
    jobs = Job.of_plan(plan, identity=base, seeds=range(2))
    assert len({job.key for job in jobs}) == 4
    assert [job.name for job in jobs[:2]] == ["a, seed 0", "a, seed 1"]
