"""The ingest refuses what would fail later, and describes what it accepts."""

import polars as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import nn
from torch.utils.data import TensorDataset

from sourcetrace.audit.identity.made_of import MadeOf
from sourcetrace.datasets import CheckpointsDataset
from sourcetrace.errors import InputError
from sourcetrace.parameters import AttributionParameters, SegmentParameters
from sourcetrace.pipelines.checkpoint_ingest.nodes import ingest_checkpoints
from sourcetrace.pipelines.checkpoint_ingest.tables import checked_table, digest_side
from sourcetrace.pipelines.shared import memory
from sourcetrace.pipelines.shared.manifest import stage_examples
from sourcetrace.schemas import CheckpointManifest, TrainTable, UnattributedParameters
from sourcetrace.tasks import BinaryTask, ClassificationTask, RegressionTask
from sourcetrace.tasks.items import CheckedItems
from tests.tiny import seeded, state_of


class Temperature(nn.Module):
    """Divides by a temperature, whose logarithm is learned."""

    def __init__(self):
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(1))

    def forward(self, values):
        return values * (-self.logarithm).exp()


class Tiny(ClassificationTask):
    """Six training examples and two queries in three classes."""

    def __init__(self):
        self.ids = [f"e{i}" for i in range(6)]
        self.more = {}

    def build_model(self):
        return nn.Sequential(
            nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3), Temperature()
        )

    def train_examples(self):
        return TensorDataset(torch.rand(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))

    def query_examples(self):
        return TensorDataset(torch.rand(2, 2), torch.tensor([0, 1]))

    def train_table(self):
        return pl.DataFrame({"example_id": self.ids, **self.more})

    def query_table(self):
        return pl.DataFrame({"example_id": ["q0", "q1"]})


def save_run(folder, task, steps, **changes):
    model = task.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    CheckpointsDataset(path=str(folder)).save(
        [state_of(step, model, optimizer) | changes for step in steps]
    )


def ingest(folder, task, count=2, bare=0):
    checkpoints = CheckpointsDataset(path=str(folder)).load()
    return ingest_checkpoints(
        checkpoints,
        task,
        SegmentParameters(count=count),
        AttributionParameters(device="cpu", bare_parameters=bare),
    )[1:5]


def digest_data(task, train_table, query_table, classes=None):
    for side, table in (("train", train_table), ("query", query_table)):
        items = CheckedItems(task, side, table["example_id"].to_list())
        digest_side(task, items, table, classes=classes)


def test_an_accepted_run_is_described(tmp_path):
    save_run(tmp_path, Tiny(), [10, 20, 30])
    manifest, left_out, train, queries = ingest(tmp_path, Tiny())
    CheckpointManifest.validate(manifest)
    UnattributedParameters.validate(left_out)
    TrainTable.validate(train)
    assert manifest["step_mass"].to_list() == pytest.approx([10.0] * 3)
    assert manifest["segment"].to_list() == [1, 1, 2] or manifest["segment"].to_list() == [1, 2, 2]
    assert manifest["attributed_share"][0] == pytest.approx(35 / 36)
    assert left_out["reason"].to_list() == ["Temperature is not supported"]
    assert train["stage"].to_list() == [["training"]] * 6
    assert queries.height == 2


def test_bare_parameters_are_attributed_and_named(tmp_path, caplog):
    save_run(tmp_path, Tiny(), [10, 20])
    with caplog.at_level("INFO"):
        manifest, left_out, *_ = ingest(tmp_path, Tiny(), bare=1)
    assert manifest["attributed_share"][0] == 1.0
    assert left_out.height == 0
    assert "1 parameters in all (4.logarithm)" in caplog.text


def test_a_sampled_loss_of_another_curvature_is_warned_of(tmp_path, caplog):
    class Weak(Tiny):
        def sampled_loss(self, outputs, generator):
            return 0.1 * super().sampled_loss(outputs, generator)

    save_run(tmp_path, Tiny(), [10, 20])
    with caplog.at_level("WARNING"):
        ingest(tmp_path, Tiny())
        assert "sampled_loss" not in caplog.text
        ingest(tmp_path, Weak())
    assert "sampled_loss gives 0.0" in caplog.text


def test_a_use_of_a_weight_that_no_module_shows_is_bare_or_refused(tmp_path):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 3)

        def forward(self, values):
            return self.second(self.first(values) @ self.first.weight)

    class Hiding(Tiny):
        def build_model(self):
            return Hidden()

    save_run(tmp_path, Hiding(), [10, 20])
    with pytest.raises(InputError, match=r"^first: its examples' gradients do not add up"):
        ingest(tmp_path, Hiding(), bare=None)
    _, left_out, *_ = ingest(tmp_path, Hiding(), bare=6)
    assert left_out.height == 0
    _, left_out, *_ = ingest(tmp_path, Hiding(), bare=2)
    assert left_out["parameter"].to_list() == ["first.weight"]
    assert left_out["reason"][0].startswith("used where no module shows it")


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(tmp_path):
    class Wider(Tiny):
        def build_model(self):
            return nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))

    save_run(tmp_path, Tiny(), [10, 20])
    with pytest.raises(InputError, match=r"does not fit.*missing: 2\.weight.*0\.weight \[4, 2\]"):
        ingest(tmp_path, Wider())
    state = Tiny().build_model().state_dict()
    state["0.weight"][0, 0] = torch.nan
    save_run(tmp_path, Tiny(), [10, 20], model_state_dict=state)
    with pytest.raises(InputError, match=r"NaN or infinite weights \(0\.weight\)"):
        ingest(tmp_path, Tiny())


def test_steps_that_repeat_or_fall_are_refused(tmp_path):
    save_run(tmp_path, Tiny(), [10, 20])
    other = torch.load(tmp_path / "step_000020.pt")
    other["model_state_dict"]["0.bias"] += 1
    torch.save(other, tmp_path / "step_000005.pt")
    with pytest.raises(InputError, match="says step 10 but follows step_000005"):
        ingest(tmp_path, Tiny())
    (tmp_path / "step_000005.pt").unlink()
    torch.save(other, tmp_path / "step_000030.pt")
    with pytest.raises(InputError, match=r"both say step 20.*a list of the files that count\.$"):
        ingest(tmp_path, Tiny())


# "best" comes before the others: their steps would fall behind it.
@pytest.mark.parametrize(("name", "step"), [("best", 20), ("z_last", 30)])
@pytest.mark.parametrize("at_most", [None, 2])
def test_a_checkpoint_that_was_saved_twice_counts_once(tmp_path, caplog, name, step, at_most):
    save_run(tmp_path, Tiny(), [10, 20, 30])
    saved = torch.load(tmp_path / f"step_{step:06d}.pt")
    torch.save({**saved, "callbacks": {}}, tmp_path / f"{name}.ckpt")
    checkpoints = CheckpointsDataset(path=str(tmp_path), at_most=at_most).load()
    with caplog.at_level("INFO"):
        identity, manifest, *_ = ingest_checkpoints(
            checkpoints,
            Tiny(),
            SegmentParameters(count=1),
            AttributionParameters(device="cpu"),
        )
    assert manifest["step"].to_list() == ([10, 20, 30] if at_most is None else [10, 30])
    assert not manifest["file"].str.contains(name).any()
    assert f"{name}.ckpt is left out: step and weights of step_0000" in caplog.text
    assert identity["checkpoints"] == MadeOf.checkpoints_part(checkpoints.digests())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b"], "has 2 rows, but train_examples"),
        (["a", "b", "c", "d", "e", "a"], "1 values of example_id occur more than once, such as a"),
        (["a", "b", "c", "d", "e", None], "example_id has empty values"),
    ],
)
def test_a_training_table_that_does_not_fit_is_refused(tmp_path, ids, message):
    save_run(tmp_path, Tiny(), [10, 20])
    task = Tiny()
    task.ids = ids
    with pytest.raises(InputError, match=message):
        ingest(tmp_path, task)


@pytest.mark.parametrize("name", ["train_loss", "sampled_loss", "measurement"])
def test_a_loss_averaged_over_the_batch_is_refused(tmp_path, name):
    save_run(tmp_path, Tiny(), [10, 20])
    task = Tiny()
    original = getattr(task, name)
    setattr(task, name, lambda *arguments: original(*arguments).mean())
    with pytest.raises(InputError, match=rf"{name} returned shape \[\] for a batch of 2"):
        ingest(tmp_path, task)


def test_stages_of_table_and_checkpoints_must_agree(tmp_path):
    save_run(tmp_path, Tiny(), [10, 20], stage="tuning")
    task = Tiny()
    task.more = {"stage": ["tuning"] * 5 + ["pretraining"]}
    with pytest.raises(InputError, match="puts 1 examples into stage 'pretraining'"):
        ingest(tmp_path, task)
    task.more = {"stage": ["tuning"] * 6}
    assert ingest(tmp_path, task)[0]["stage"].unique().to_list() == ["tuning"]


def save_stages(folder, task):
    """Save a run of two stages, a before b."""
    save_run(folder, task, [10], stage="b")
    content = torch.load(folder / "step_000010.pt", weights_only=True)
    torch.save({**content, "step": 20, "stage": "a"}, folder / "step_000020.pt")


def test_names_and_lists_of_one_name_give_the_same_table(tmp_path):
    save_stages(tmp_path, Tiny())
    task, other = Tiny(), Tiny()
    names = ["a", "b", "b", "a", "a", "b"]
    task.more = {"stage": pl.Series(names, dtype=pl.Categorical)}
    other.more = {"stage": [[name] for name in names]}
    one, two = (ingest(tmp_path, each)[2] for each in (task, other))
    TrainTable.validate(one)
    assert one.equals(two)
    assert one.schema == two.schema
    assert one.hash_rows(seed=0).equals(two.hash_rows(seed=0))


def test_an_example_may_belong_to_several_stages_in_any_order(tmp_path):
    save_stages(tmp_path, Tiny())
    task = Tiny()
    task.more = {"stage": [["a"], ["a", "b"], ["b", "a"], ["b"], ["a"], ["a"]]}
    table = ingest(tmp_path, task)[2]
    # b was trained before a.
    assert table["stage"].to_list()[:4] == [["a"], ["b", "a"], ["b", "a"], ["b"]]
    found = {name: rows.tolist() for name, rows in stage_examples(table).items()}
    assert found == {"a": [0, 1, 2, 4, 5], "b": [1, 2, 3]}


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (["a", "c"], "1 examples into stage 'c', but the checkpoints have b, a"),
        (["a", None], "1 examples into stage None, but the checkpoints have b, a"),
        ([], "1 examples into no stage.*Give each a stage of the checkpoints"),
        (None, "1 examples into no stage"),
        (["a", "b", "a"], r"1 examples into a stage twice, such as \['a', 'b', 'a'\]"),
    ],
)
def test_stages_that_do_not_fit_are_refused(tmp_path, first, message):
    save_stages(tmp_path, Tiny())
    task = Tiny()
    task.more = {"stage": [first, ["a"], ["b"], ["b"], ["a"], ["a"]]}
    with pytest.raises(InputError, match=message):
        ingest(tmp_path, task)


def test_an_empty_name_is_no_stage(tmp_path):
    save_stages(tmp_path, Tiny())
    task = Tiny()
    task.more = {"stage": ["a", "b", None, "b", "a", "a"]}
    with pytest.raises(InputError, match="1 examples into no stage"):
        ingest(tmp_path, task)


def test_labels_beyond_the_classes_are_named_on_either_side():
    task = Tiny()
    labels = [0, 1, 2, -1, 1, 3]
    task.more = {"label": labels}
    task.train_examples = lambda: TensorDataset(torch.rand(6, 2), torch.tensor(labels))
    with pytest.raises(InputError, match=r"'e3' \(index 3\): -1, 'e5' \(index 5\): 3\."):
        digest_data(task, checked_table(task, "train"), task.query_table(), classes=3)


def test_labels_are_written_as_the_models_are(tmp_path):
    save_run(tmp_path, Tiny(), [10, 20])
    task = Tiny()
    task.more = {"label": [0.0, 1.0, 2.0, 0.0, 1.0, None]}
    assert ingest(tmp_path, task)[2]["label"].to_list() == ["0", "1", "2", "0", "1", None]
    task.more = {"label": ["cat", "dog", "cow"] * 2}
    with pytest.raises(InputError, match=r"labels such as cat, cow, dog, .*Set label_names"):
        ingest(tmp_path, task)
    task.label_names = ("cat", "dog", "cow")
    assert ingest(tmp_path, task)[2]["label"][0] == "cat"


def test_a_task_may_take_its_batch_apart(tmp_path):
    save_run(tmp_path, Tiny(), [10, 20])

    class Taking(Tiny):
        class List:  # collators are often objects
            def __call__(self, items):
                return list(torch.utils.data.default_collate(list(items)))

        collate = List()

        def forward(self, model, batch):
            return model(batch.pop(0))

        def train_loss(self, outputs, batch):
            return super().train_loss(outputs, (None, batch[-1]))

        def measurement(self, outputs, batch):
            return super().measurement(outputs, (None, batch[-1]))

    assert ingest(tmp_path, Taking())


def test_an_error_in_the_users_code_says_where(tmp_path):
    save_run(tmp_path, Tiny(), [10, 20])

    class Doubles(Tiny):
        def train_examples(self):
            return TensorDataset(torch.rand(6, 2).double(), torch.tensor([0, 1, 2, 0, 1, 2]))

    with pytest.raises(InputError, match=r"task\.forward failed on the first examples.*dtype"):
        ingest(tmp_path, Doubles())


def save_weights(folder, models):
    optimizer = torch.optim.SGD(models[0].parameters(), lr=0.1)
    CheckpointsDataset(path=str(folder)).save(
        [state_of(10 * number, model, optimizer) for number, model in enumerate(models, start=1)]
    )


def test_automatic_segments_end_where_the_gradients_change(tmp_path):
    """Twice the same weights, then twice others that are nothing like them."""
    task = Tiny()
    with seeded(1):
        first, second = task.build_model(), task.build_model()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(-6)
    save_weights(tmp_path, [first, first, second, second])
    assert ingest(tmp_path, task, "auto")[0]["segment"].to_list() == [1, 1, 2, 2]
    save_weights(tmp_path, [first, first, first])
    assert ingest(tmp_path, task, "auto")[0]["segment"].to_list() == [1, 1, 1]


def test_segments_end_where_they_are_told_to(tmp_path):
    save_run(tmp_path, Tiny(), [10, 20, 30, 40])
    checkpoints = CheckpointsDataset(path=str(tmp_path)).load()
    more = (AttributionParameters(device="cpu"),)
    manifest, *_ = ingest_checkpoints(checkpoints, Tiny(), SegmentParameters(ends=[10, 30]), *more)[
        1:5
    ]
    assert manifest["segment"].to_list() == [1, 2, 2, 3]
    with pytest.raises(InputError, match=r"segments\.ends names step 25"):
        ingest_checkpoints(checkpoints, Tiny(), SegmentParameters(ends=[25]), *more)[1:5]


def test_a_table_in_another_order_than_the_data_set_is_refused():
    task = Tiny()
    task.more = {"label": ["0", "1", "2", "0", "1", "2"]}
    queries = task.query_table().with_columns(label=pl.lit(None, dtype=pl.String))
    digest_data(task, task.train_table(), queries)
    with pytest.raises(InputError, match=r"train_table\(\): the label.* in 4 of 6 .*'e0'.*order"):
        digest_data(task, task.train_table().with_columns(pl.col("label").reverse()), queries)
    task.label_names = ["cat", "dog", "bird"]
    named = task.train_table().with_columns(label=pl.Series(["cat", "dog", "bird"] * 2))
    digest_data(task, named, queries)
    with pytest.raises(InputError, match="'dog' in the table, 'cat' in the data set"):
        digest_data(task, named.with_columns(pl.lit("dog").alias("label")), queries)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_binary_tasks_labels_in_another_order_are_refused(dtype):
    class Churn(BinaryTask):
        label_names = ("stays", "leaves")

        def train_examples(self):
            return TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]).to(dtype))

        def train_table(self):
            return pl.DataFrame({"example_id": list("abcd"), "label": self.labels})

        query_examples, query_table = train_examples, train_table

    task = Churn()
    task.labels = ["stays", "leaves", "leaves", "stays"]
    digest_data(task, task.train_table(), task.query_table())
    task.labels = ["no", "yes", "yes", "no"]  # of names that are not the task's nothing is said
    digest_data(task, task.train_table(), task.query_table())
    task.labels = ["leaves", "leaves", "stays", "stays"]
    with pytest.raises(InputError, match=r"in 2 of 4 .*'leaves' in the table, 'stays' in the data"):
        digest_data(task, task.train_table(), task.query_table())


class Whole(Tiny):
    """Without batch norm, and with the same numbers at each call."""

    def build_model(self):
        with seeded(0):
            return nn.Sequential(nn.Linear(2, 4), nn.Dropout(), nn.Tanh(), nn.Linear(4, 3))

    def train_examples(self):
        with seeded(1):
            return super().train_examples()

    def query_examples(self):
        with seeded(2):
            return super().query_examples()


class Contrastive(Whole):
    """Every example against the others of its batch."""

    def train_loss(self, outputs, batch):
        likeness = F.normalize(outputs, dim=-1) @ F.normalize(outputs, dim=-1).T
        return F.cross_entropy(likeness, torch.arange(len(outputs)), reduction="none")


class BatchStatistics(Whole):
    def forward(self, model, batch):
        return F.batch_norm(model(batch[0]), None, None, training=True)


class NormalisedWeights(Whole):
    def train_loss(self, outputs, batch):
        weights = torch.tensor([5.0, 1.0, 0.2])
        weighted = F.cross_entropy(outputs, batch[1], weight=weights, reduction="none")
        return weighted / weights[batch[1]].mean()


class CoupledMeasurement(Whole):
    def measurement(self, outputs, batch):
        return super().measurement(outputs - outputs.mean(0), batch)


class CoupledGradient(Whole):
    """The losses are the same in every batch; what they are differentiated by is not."""

    def train_loss(self, outputs, batch):
        return super().train_loss(outputs, batch) * (1 + outputs.mean() - outputs.mean().detach())


class Sequences(Whole):
    """A mean over the positions, padding among them or not."""

    def __init__(self, masked):
        super().__init__()
        self.masked = masked

    def build_model(self):
        with seeded(0):
            return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))

    def items(self, count):
        return [(torch.arange(1, 3 + i % 3), i % 3) for i in range(count)]

    def train_examples(self):
        return self.items(6)

    def query_examples(self):
        return self.items(2)

    def collate(self, items):
        padded = nn.utils.rnn.pad_sequence([values for values, _ in items], batch_first=True)
        return padded, torch.tensor([target for _, target in items])

    def forward(self, model, batch):
        counted = batch[0] > 0 if self.masked else torch.ones_like(batch[0])
        shares = counted / counted.sum(1, keepdim=True)
        return (model(batch[0]) * shares.unsqueeze(-1)).sum(1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Contrastive(), r"^train_loss of example 'q\d' is 0 alone and .* in a batch with q"),
        (BatchStatistics(), r"task\.forward failed on example 'q0' alone.*batch_norm"),
        (NormalisedWeights(), r"^train_loss of example .* alone and .*weights that are not norm"),
        (CoupledMeasurement(), r"^measurement of example 'q\d' is .* alone and "),
        (CoupledGradient(), r"^the norm of train_loss's gradient of example 'e\d' is "),
        (Sequences(masked=False), r"of example 'q\d' is .* alone and .*padding masked"),
    ],
)
def test_an_example_that_depends_on_its_batch_is_refused(tmp_path, task, message):
    save_run(tmp_path, task, [10, 20])
    with pytest.raises(InputError, match=message):
        ingest(tmp_path, task)


def test_the_refusal_says_both_values(tmp_path):
    task = NormalisedWeights()
    task.query_examples = task.train_examples
    task.query_table = task.train_table
    save_run(tmp_path, task, [10, 20])
    with pytest.raises(InputError, match=r"^train_loss of example") as refused:
        ingest(tmp_path, task)
    words = str(refused.value).split()
    number, alone, together = int(words[3][2]), float(words[5]), float(words[8])
    model = task.build_model().eval()
    model.load_state_dict(torch.load(tmp_path / "step_000020.pt")["model_state_dict"])
    inputs, labels = task.train_examples().tensors
    loss = F.cross_entropy(model(inputs)[number], labels[number]).item()
    assert alone == pytest.approx(loss, rel=1e-4)
    weights = torch.tensor([5.0, 1.0, 0.2])
    assert together == pytest.approx(loss * float(weights[labels[number]] / 6.2 * 3), rel=1e-4)


def test_examples_on_their_own_are_accepted_however_they_round(tmp_path):
    class Autocast(Whole):
        def forward(self, model, batch):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return model(batch[0]).float()

    class Fitted(Whole):
        """All losses are rounding."""

        def forward(self, model, batch):
            return super().forward(model, batch) + 17 * F.one_hot(batch[1], 3)

    for i, task in enumerate((Whole(), Autocast(), Fitted())):
        save_run(tmp_path / str(i), task, [10, 20])
        assert ingest(tmp_path / str(i), task)
    save_run(tmp_path / "sequences", Sequences(masked=True), [10, 20])
    assert ingest(tmp_path / "sequences", Sequences(masked=True))


def test_a_forward_pass_that_draws_is_refused(tmp_path):
    class Drawn(Whole):
        def forward(self, model, batch):
            return model(F.dropout(batch[0], p=0.3))

    save_run(tmp_path, Drawn(), [10, 20])
    message = r"in one pass and .* in the next.*draws at random"
    with seeded(3), pytest.raises(InputError, match=message):
        ingest(tmp_path, Drawn())


class Prices(RegressionTask):
    """Nine targets, far from 0 and one of them far from the others."""

    values = (101.2, 101.9, 100.3, 104.4, 99.5, 102.6, 103.7, 180.8, 101.1)

    def __init__(self, labels):
        self.labels = labels

    def train_examples(self):
        return TensorDataset(torch.ones(9, 2), torch.tensor(self.values).unsqueeze(-1))

    def query_examples(self):
        return TensorDataset(torch.ones(1, 2), torch.ones(1))

    def train_table(self):
        return pl.DataFrame({"example_id": [f"e{i}" for i in range(9)], "label": self.labels})

    def query_table(self):
        return pl.DataFrame({"example_id": ["q"], "label": ["1.0"]})


def test_a_regressions_labels_in_another_order_are_refused():
    values = pl.Series(Prices.values)

    def digest(labels):
        task = Prices(labels.cast(pl.String))
        return digest_data(task, task.train_table(), task.query_table())

    swapped = values.gather([0, 1, 3, 2, 4, 5, 6, 7, 8])
    with pytest.raises(InputError, match=r"in 2 of 9 rows \(e2, e3\): 'e2' has '104.4'"):
        digest(swapped)
    for labels in (values.sort(), values.reverse(), (values.reverse() - 100) * 3):
        rows = sum(abs(a - b) > 0.1 for a, b in zip(labels, values, strict=True))
        with pytest.raises(InputError, match=rf"the label is not the data set's in {rows} of 9"):
            digest(labels)


@pytest.mark.parametrize(
    "labels",
    [
        pl.Series(Prices.values),
        pl.Series(Prices.values).round(0),
        (pl.Series(Prices.values) - 100) * 3,
        pl.Series(Prices.values).log(),
        pl.Series([None] * 9, dtype=pl.Float64),
        pl.Series(["cheap"] * 9),
    ],
)
def test_a_regressions_labels_may_be_rounded_in_another_unit_or_text(labels):
    task = Prices(labels.cast(pl.String))
    digest_data(task, task.train_table(), task.query_table())


@pytest.mark.parametrize("where", ["items", "collate"])
def test_examples_that_are_drawn_anew_are_refused_wherever_they_stand(tmp_path, where):
    class Flipped(TensorDataset):
        """Flips the last half of the items with a chance of a quarter."""

        def __getitem__(self, index):
            inputs, label = super().__getitem__(index)
            flip = index >= 32 and where == "items" and bool(torch.rand(()) < 0.25)
            return inputs.flip(0) if flip else inputs, label

    class Augmented(Whole):
        def train_examples(self):
            return Flipped(torch.arange(128.0).reshape(64, 2), torch.arange(64) % 3)

        def train_table(self):
            return pl.DataFrame({"example_id": [f"e{i}" for i in range(64)]})

        def collate(self, items):
            inputs, labels = super().collate(items)
            return inputs + (torch.rand(()) if where == "collate" else 0), labels

    save_run(tmp_path, Augmented(), [10, 20])
    for seed in range(10):
        message = r"^train_examples\(\) gives other values at each reading, as in e\d+,"
        with seeded(seed), pytest.raises(InputError, match=message):
            ingest(tmp_path, Augmented())


def test_what_does_not_fit_into_memory_is_refused_before_any_pass(tmp_path, monkeypatch):
    save_run(tmp_path, Tiny(), [10, 20, 30])
    monkeypatch.setattr(memory, "free_memory", lambda _: 1000)
    message = r"^EK-FAC fitting needs at least .* but 1.kB are free on cpu: .* for '\w+' alone\. "
    with pytest.raises(InputError, match=message):
        ingest(tmp_path, Tiny())
