"""Extraction is the same bytes however it is cut off, and does no more than what is not known."""

from dataclasses import replace

import pytest
import torch
from polars.testing import assert_frame_equal

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.parameters import AttributionParameters, GradientParameters, LaunchParameters
from sourcetrace.pipelines.gradient_extraction.work import extract, units_of
from sourcetrace.pipelines.set_up.grid import Grid
from sourcetrace.pipelines.set_up.nodes import set_up_audit
from sourcetrace.work.ledger import Ledger
from sourcetrace.work.team import Team
from tests.pipelines.source_scoring.test_work import EXAMPLES, Longer
from tests.pipelines.test_training import inputs_of, train

POINTS = 3
RANGES = 3


class Killed(Ledger):
    """A ledger of a process that is killed inside its nth unit, its files written."""

    def __init__(self, root, after):
        super().__init__(root)
        self.left = after

    def write(self, unit, do):
        def killed(unit, folder):
            said = do(unit, folder)
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return said

        super().write(unit, killed)


def set_up(folder, *, optimizer=torch.optim.SGD, method="scaled_source"):
    """Return the set-up of an audit of three checkpoints in two segments."""
    if not (folder / "run").exists():
        train(folder / "run", lambda model: optimizer(model.parameters(), lr=0.01))
    inputs = inputs_of(folder, folder / "run", method=method, task=Longer(), count=2)
    inputs["ingested"] = replace(inputs["ingested"], identity="this")
    inputs["gradients"] = GradientParameters(cache="memory", batch_size=4)
    return set_up_audit(**inputs)


def cut(setup, ledger, *, range_size=8, groups=1, rank=0, size=1):
    """Return the set-up for other units, which are kept elsewhere."""
    layers = setup.engine.coverage.layers
    own = tuple(layers[at::groups] for at in range(groups))
    stages = {
        name: replace(getattr(setup.needs, name), groups=own) for name in ("extraction", "fitting")
    }
    grid = Grid(4, range_size, policy="memory")
    needs = replace(setup.needs, **stages)
    return replace(setup, grid=grid, needs=needs, team=Team(ledger, rank=rank, size=size))


def files_of(root):
    """Return the bytes of all files of units."""
    return {
        file.relative_to(root): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and not {"log", "phases"} & {*file.relative_to(root).parts}
    }


def check_killed(setup, work, tmp_path, units, **cuts):
    """Fail unless work that is killed in any unit and done again leaves what it leaves else."""
    work(cut(setup, done := Killed(tmp_path / "whole", units), **cuts))
    assert done.left == 0
    expected = files_of(tmp_path / "whole")
    for after in range(units):
        root = tmp_path / str(after)
        with pytest.raises(KeyboardInterrupt):
            work(cut(setup, Killed(root, after), **cuts))
        work(cut(setup, resumed := Killed(root, units), **cuts))
        assert files_of(root) == expected
        assert resumed.left == after  # nothing is done twice
    work(cut(setup, Killed(root, 0), **cuts))


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return set_up(tmp_path_factory.mktemp("audit"))


@pytest.mark.parametrize(("groups", "range_size"), [(1, 8), (2, EXAMPLES)])
def test_killed_in_any_unit_and_taken_up_it_is_as_undisturbed(setup, tmp_path, groups, range_size):
    ranges = -(-EXAMPLES // range_size)
    # Their sums are units of their own where there are several.
    units = POINTS * (groups * (ranges + (ranges > 1)) + 1)
    check_killed(setup, extract, tmp_path, units, groups=groups, range_size=range_size)


def test_ranges_and_groups_change_no_row_and_no_sum_beyond_rounding(setup, tmp_path):
    one = extract(cut(setup, Ledger(tmp_path / "one"), range_size=EXAMPLES))
    other = extract(cut(setup, Ledger(tmp_path / "other"), groups=3))
    for name in ("signals", "queries", "sketches"):
        assert_frame_equal(getattr(one, name).collect(), getattr(other, name).collect())
    for point, layers in one.covariances.items():
        for layer, sums in layers.items():
            for name, tensor in sums.tensors().items():
                found = other.covariances[point][layer].tensors()[name]
                torch.testing.assert_close(found, tensor, rtol=1e-6, atol=1e-6)


def test_the_parts_of_a_point_s_sums_are_gone_before_the_next_point_s_come(setup, tmp_path):
    class Watching(Ledger):
        most = 0

        def write(self, unit, do):
            super().write(unit, do)
            parts = [one for one in self.root.glob("*/*") if "-0" in one.name]
            self.most = max(self.most, len(parts))

    extract(cut(setup, ledger := Watching(tmp_path)))
    assert ledger.most == RANGES
    assert not [one for one in tmp_path.glob("*/*") if "-0" in one.name]


def test_a_damaged_unit_is_done_again_and_no_other(setup, tmp_path, caplog):
    whole = cut(setup, Ledger(tmp_path), range_size=EXAMPLES)
    extract(whole)
    expected = files_of(tmp_path)
    (damaged,) = tmp_path.rglob("step_000020%2F0*/sums.safetensors")
    damaged.write_bytes(damaged.read_bytes()[::-1])
    extract(cut(setup, Killed(tmp_path, 1), range_size=EXAMPLES))
    assert files_of(tmp_path) == expected
    assert caplog.text.count("is damaged") == 1


def test_a_damaged_sum_of_ranges_is_made_of_their_parts_again(setup, tmp_path):
    extract(cut(setup, Ledger(tmp_path)))
    expected = files_of(tmp_path)
    (damaged,) = tmp_path.rglob("step_000020%2F0*/sums.safetensors")
    damaged.write_bytes(damaged.read_bytes()[::-1])
    extract(cut(setup, Killed(tmp_path, RANGES + 1)))
    assert files_of(tmp_path) == expected


class Audits:
    """Set-ups of the same checkpoints whose identity is that of their parameters."""

    def __init__(self, folder, optimizer=torch.optim.SGD):
        train(folder / "run", lambda model: optimizer(model.parameters(), lr=0.1))
        self.inputs = inputs_of(folder, folder / "run", task=Longer(), count=1)

    def set_up(self, *, steps=None, gradients=None, kept_audits=1, **attribution):
        """Return the set-up of an audit with other parameters, of the first checkpoints."""
        given = {"method": "source", "device": "cpu", **attribution}
        made_of = MadeOf.of(
            {"task": {"class": "tests.Longer"}, "attribution": given},
            data="these",
            checkpoints=str(steps),
            code="",
        )
        ingested = replace(
            self.inputs["ingested"],
            manifest=self.inputs["ingested"].manifest[:steps],
            made_of=made_of,
            identity=made_of.digest_for("gradient_extraction"),
        )
        kept = {"cache": "memory", "batch_size": 4, **(gradients or {})}
        return set_up_audit(
            ingested,
            self.inputs["gradient_cache"],
            GradientParameters.model_validate(kept),
            AttributionParameters.model_validate(given),
            LaunchParameters(kept_audits=kept_audits),
        )


def test_one_more_checkpoint_computes_that_one_alone(tmp_path):
    audits = Audits(tmp_path)
    few = audits.set_up(steps=2)
    extract(few)
    more = audits.set_up()
    assert more.grid == few.grid
    missing = more.team.ledger.missing(units_of(more))
    # Sketches are taken at the last weights, which were others' before.
    assert {one.name.split("/")[0] for one in missing} == {"step_000020", "step_000030"}
    extract(more)
    assert not more.team.ledger.missing(units_of(more))


def test_the_units_of_the_audits_before_stand(tmp_path):
    """Of another namespace, or with other parameters that are tried in turns."""
    audits = Audits(tmp_path)

    def missing(**changed):
        setup = audits.set_up(**changed)
        setup.team.ledger.refresh()
        return len(setup.team.ledger.missing(units_of(setup)))

    def audit(**changed):
        extract(audits.set_up(kept_audits=2, **changed))

    for seed in (0, 1, 0):
        audit(seed=seed)
    assert [missing(seed=0), missing(seed=1)] == [0, 0]
    # Nothing was left to do, and all of it is another audit's.
    audit(seed=0, method="scaled_source")
    audit(seed=2)
    assert [missing(seed=0), missing(seed=2)] == [0, 0]
    assert missing(seed=1)
    audit(seed=3)
    assert missing(seed=0)


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    audits = Audits(tmp_path_factory.mktemp("audits"))
    extract(audits.set_up())
    return audits


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({}, False),
        ({"method": "scaled_source"}, False),
        ({"method": "influence"}, False),
        ({"seed": 1}, True),
        ({"sampled_labels": 2}, True),
        ({"curvature_examples": 7}, True),
        ({"precision": {"passes": "bfloat16"}}, True),
        ({"precision": {"curvature": "tf32"}}, True),
        ({"precision": {"scores": "tf32"}}, False),
        ({"tolerance": 0.0}, False),
        ({"damping": 0.1}, False),
        ({"kept_curvature": 0.1}, False),
        ({"strongest_examples": 3}, False),
        ({"projection_dimension": 16}, False),
        ({"astra": {"max_iterations": 3}}, False),
        ({"bare_parameters": 7}, False),
        ({"layers": {"exclude": ["3"]}}, True),
        ({"gradients": {"batch_size": 2}}, True),
        ({"gradients": {"cache": "recompute"}}, False),
        ({"gradients": {"memory_budget_gib": 0.0, "disk_budget_gib": 0.0}}, False),
        ({"gradients": {"memory_gib": 4.0}}, False),
        ({"gradients": {"memory_gib": 0.01}}, False),
    ],
)
def test_what_decides_no_gradient_makes_none_stale(audits, change, stale):
    after = audits.set_up(**change)
    assert bool(after.team.ledger.missing(units_of(after))) == stale


def test_every_parameter_of_attribution_is_one_of_those():
    (cases,) = test_what_decides_no_gradient_makes_none_stale.pytestmark
    changed = {name for change, _ in cases.args[1] for name in change}
    assert changed == {*AttributionParameters.model_fields, "gradients"} - {"device"}
    kept = {name for change, _ in cases.args[1] for name in change.get("gradients", {})}
    assert kept == {*GradientParameters.model_fields}
