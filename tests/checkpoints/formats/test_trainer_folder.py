"""Folders of the Trainer of transformers, as it writes them, and as nobody should."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.training.stated import StatedParameters
from sourcetrace.core.training.segments import group_step_masses
from sourcetrace.errors import InputError
from sourcetrace.pipelines.checkpoint_ingest.training import Training

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def tiny():
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=1)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train 12 steps, saving every fourth; return folder -> the rate of every step."""
    found = {}
    for schedule in ("linear", "cosine", "inverse_sqrt"):
        folder = tmp_path_factory.mktemp(schedule)
        rates = found[folder] = []

        class Watch(transformers.TrainerCallback):
            def on_pre_optimizer_step(self, *_, optimizer, rates=rates, **__):
                rates.append([group["lr"] for group in optimizer.param_groups])

        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=12,
            per_device_train_batch_size=2,
            learning_rate=0.01,
            weight_decay=0.1,
            lr_scheduler_type=schedule,
            warmup_steps=5,
            logging_steps=2,
            save_steps=4,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        tokens = [{"input_ids": [i % 11, 1, 2], "labels": [i % 11, 1, 2]} for i in range(8)]
        transformers.Trainer(tiny(), arguments, train_dataset=tokens, callbacks=[Watch()]).train()
    return found


@pytest.fixture
def copy(trained, tmp_path):
    """Return a folder with one checkpoint, to do as one likes with."""
    shutil.copytree(next(iter(trained)) / "checkpoint-8", tmp_path / "all" / "checkpoint-8")
    return tmp_path / "all"


def load(folder):
    reader = CheckpointFolder(folder)
    return [reader.load(file, tiny()) for file in reader.files()]


def test_steps_settings_and_weights_are_the_trainings(trained):
    for folder in trained:
        found = load(folder)
        assert [one.record.id for one in found] == [f"checkpoint-{n}" for n in (4, 8, 12)]
        assert [(one.record.run, one.record.step) for one in found] == [("", 4), ("", 8), ("", 12)]
        assert {one.record.optimizer for one in found} == {"AdamW"}
        sources = found[0].training.sources
        assert (sources["step"], sources["momentum"]) == ("trainer_state.json", "optimizer.pt")
        log = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
        longer = sum(one.get("grad_norm", 0) > 1 for one in log["log_history"])
        words = f"assumed: no gradient was clipped; {longer} of 2 logged norms exceed 1"
        assert sources["clipping"].startswith(words if longer else "assumed: no gradient was")
        for one in found:
            saved = load_file(folder / one.file / "model.safetensors")
            assert all(torch.equal(one.state_dict[name], saved[name]) for name in saved)
            assert one.state_dict["lm_head.weight"] is one.state_dict["transformer.wte.weight"]


def test_the_last_log_says_of_the_whole_run_what_was_clipped(trained):
    for folder in trained:
        found = load(folder)
        (run,) = Training.of_runs(found, CheckpointFolder(folder), tiny())
        assert {one["clipping"] for one in run.sources} == {found[-1].training.sources["clipping"]}


def test_rates_are_those_of_every_step_though_few_are_logged(trained):
    for folder, rates in trained.items():
        (run,) = Training.of_runs(load(folder), CheckpointFolder(folder), tiny())
        expected = torch.tensor(rates, dtype=torch.float64).reshape(3, 4, -1).sum(1)
        # A step of AdamW counts its rate.
        known = torch.tensor(group_step_masses(run.records), dtype=torch.float64)
        assert torch.allclose(known, expected, rtol=1e-9)
        assert {one.source for one in run.rates} == {"reconstructed"}
        name = re.sub(r"\d+$", "", folder.name)
        assert (
            run.sources[0]["step_mass"] == f"log of checkpoint-12, on transformers' {name} schedule"
        )
        groups = run.records[-1].parameter_groups
        assert [group.weight_decay for group in groups] == [0.1, 0.0]
        assert "transformer.ln_f.weight" in groups[1].parameters


def test_trainings_one_after_the_other_are_stages_where_the_parameters_say_so(trained, tmp_path):
    folders = list(trained)[:2]
    stages = {"warm": 12, "tune": 24}
    for folder, name in zip(folders, stages, strict=True):
        shutil.copytree(folder, tmp_path / name)
    assert {one.record.run for one in load(tmp_path)} == {"warm", "tune"}
    reader = CheckpointFolder(tmp_path, stages)
    found = [reader.load(file, tiny()) for file in reader.files()]
    assert [(one.record.stage, one.record.step) for one in found] == [
        *(("warm", step) for step in (4, 8, 12)),
        *(("tune", step) for step in (16, 20, 24)),
    ]
    assert {one.record.run for one in found} == {""}
    (run,) = Training.of_runs(found, reader, tiny())
    rates = trained[folders[0]] + trained[folders[1]]
    expected = torch.tensor(rates, dtype=torch.float64)[:, 0].reshape(6, 4).sum(1)
    known = [own[0] for own in group_step_masses(run.records)]
    assert known == pytest.approx(expected.tolist(), rel=1e-9)
    short = CheckpointFolder(tmp_path, {"warm": 12, "tune": 20})
    with pytest.raises(InputError, match="12 of its stage, 24 over the whole training, lies"):
        short.load(short.files()[-1], tiny())
    with pytest.raises(InputError, match=r"tune are stages of checkpoints\.stages, warm are not"):
        CheckpointFolder(tmp_path, {"tune": 12}).files()


def test_second_moments_are_those_of_the_optimisers_file(trained):
    folder = next(iter(trained))
    reader, found = CheckpointFolder(folder), load(folder)
    (run,) = Training.of_runs(found, reader, tiny())
    last = found[-1]
    denominators = reader.denominators(last.file, last.sha256, run.places[-1])
    assert denominators.keys() == dict(tiny().named_parameters(remove_duplicate=False)).keys()
    state = torch.load(folder / last.file / "optimizer.pt", weights_only=True)["state"]
    moment = state[0]["exp_avg_sq"] / (1 - 0.999**12)
    expected = (moment.sqrt() + 1e-8).masked_fill(moment == 0, torch.inf)
    assert torch.allclose(denominators["lm_head.weight"], expected)


def test_a_model_saved_alone_has_the_logged_rates(trained, copy):
    """As with save_only_model=True; the settings are the parameters'."""
    for name in ("optimizer.pt", "scheduler.pt"):
        (copy / "checkpoint-8" / name).unlink()
    settings = {"name": "SGD", "learning_rate": 7.0, "momentum": 0.9}
    reader = CheckpointFolder(copy, stated=StatedParameters(settings))
    one = reader.load(reader.files()[0], tiny())
    assert (one.record.step, one.record.momentum) == (8, 0.9)
    assert one.record.learning_rate == one.training.logged.rates[8]
    expected = {"step": "trainer_state.json", "momentum": "assumed: checkpoints.optimizer"}
    assert expected.items() <= one.training.sources.items()
    assert one.training.sources["learning_rate"] == "trainer_state.json"


def test_weights_may_be_a_pickle_or_in_parts(trained, copy):
    checkpoint = copy / "checkpoint-8"
    whole = load(copy)[0]
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    torch.save(weights, checkpoint / "pytorch_model.bin")
    (pickled,) = load(copy)
    (checkpoint / "pytorch_model.bin").unlink()
    model = tiny()
    model.load_state_dict(whole.state_dict)
    model.save_pretrained(checkpoint, max_shard_size="1KB")
    assert len(list(checkpoint.glob("model-*-of-*.safetensors"))) > 1
    (parts,) = load(copy)
    for one in (pickled, parts):
        assert one.state_dict.keys() == whole.state_dict.keys()
        assert all(
            torch.equal(one.state_dict[key], whole.state_dict[key]) for key in one.state_dict
        )
        assert one.record == whole.record
    assert len({whole.sha256, pickled.sha256, parts.sha256}) == 3


def test_every_file_that_is_read_is_in_the_digest(copy):
    checkpoint = copy / "checkpoint-8"
    before = load(copy)[0]
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"):
        data = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(data + b" ")
        with pytest.raises(InputError, match="checkpoint-8 has changed since"):
            CheckpointFolder(copy).weights("checkpoint-8", before.sha256, tiny())
        (checkpoint / name).write_bytes(data)
    (checkpoint / "training_args.bin").write_bytes(b"never read")
    assert load(copy)[0].sha256 == before.sha256


def test_the_final_model_beside_the_checkpoints_is_none_of_them(copy):
    for name in ("model.safetensors", "training_args.bin"):
        (copy / name).write_bytes(b"")
    assert [one.file for one in load(copy)] == ["checkpoint-8"]


def indexed(folder, weight_map):
    (folder / "model.safetensors").unlink(missing_ok=True)
    content = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/secret.safetensors", "..\\secret.safetensors", "optimizer.pt"],
)
def test_an_index_that_leads_elsewhere_is_refused(copy, name):
    save_file({"w": torch.ones(1)}, copy / "a.safetensors")
    indexed(copy / "checkpoint-8", {"w": name})
    with pytest.raises(InputError, match=r"index\.json names .*expected \.safetensors files that"):
        load(copy)


def test_parts_that_the_index_does_not_describe_are_refused(copy):
    folder = copy / "checkpoint-8"
    save_file({"a": torch.ones(1)}, folder / "one.safetensors")
    indexed(folder, {"a": "one.safetensors", "b": "one.safetensors"})
    with pytest.raises(InputError, match="disagree on b: a part is of another checkpoint"):
        load(copy)
    indexed(folder, {"a": "two.safetensors"})
    with pytest.raises(InputError, match=r"names 'two\.safetensors'; expected"):
        load(copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainer_state.json", b"[" * 100_000, "cannot be read as JSON"),
        ("trainer_state.json", b'{"global_step": -1}', "is not what transformers writes"),
        ("model.safetensors", b"\0" * 20, "damaged"),
        ("model.safetensors", None, "has neither model.safetensors nor pytorch_model.bin"),
        ("optimizer.pt", b"", r"checkpoint-8/optimizer\.pt"),
        ("optimizer.pt", None, "save_only_model=False"),
        ("scheduler.pt", b"PK", r"checkpoint-8/scheduler\.pt"),
    ],
)
def test_what_is_broken_or_missing_is_refused_by_its_name(copy, name, content, message):
    file = copy / "checkpoint-8" / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(copy)


def test_a_state_that_is_too_long_is_not_read(copy):
    with (copy / "checkpoint-8" / "trainer_state.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match=r"trainer_state\.json has 1,073,741,824 bytes; expected"):
        load(copy)


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt"]
)
def test_a_file_that_was_cut_anywhere_is_refused(copy, name):
    file = copy / "checkpoint-8" / name
    data = file.read_bytes()
    for tenth in range(10):
        file.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(InputError, match=f"checkpoint-8/{name}"):
            load(copy)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "pytorch_model.bin"])
def test_pickled_code_is_not_executed(copy, name):
    trace = copy / "executed"

    class Payload:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    folder = copy / "checkpoint-8"
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    torch.save({"state": Payload()}, folder / name)
    with pytest.raises(InputError, match=f"checkpoint-8/{name} holds pickled Python objects"):
        load(copy)
    assert not trace.exists()


def test_a_path_to_one_checkpoint_is_refused_with_the_folder_to_name(copy):
    with pytest.raises(InputError, match=r"is one checkpoint\. Set"):
        load(copy / "checkpoint-8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_adapters_saved_alone_come_with_the_frozen_weights_of_the_model(tmp_path):
    peft = pytest.importorskip("peft")

    def adapted(seed):
        torch.manual_seed(seed)  # of the adapters' own first weights
        base = tiny()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            options = peft.LoraConfig(
                r=2, target_modules=["c_attn"], modules_to_save=["ln_f"], fan_in_fan_out=True
            )
            return peft.get_peft_model(base, options)

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        save_steps=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    tokens = [{"input_ids": [i % 11, 1, 2], "labels": [i % 11, 1, 2]} for i in range(8)]
    model = adapted(1)
    transformers.Trainer(model, arguments, train_dataset=tokens).train()
    assert not (tmp_path / "checkpoint-4" / "model.safetensors").exists()
    reader, other = CheckpointFolder(tmp_path), adapted(2)
    found = [reader.load(file, other) for file in reader.files()]
    expected = model.state_dict()
    assert found[-1].state_dict.keys() == expected.keys()
    assert all(torch.equal(found[-1].state_dict[name], expected[name]) for name in expected)
    (run,) = Training.of_runs(found, reader, other)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    named = {name for group in run.records[-1].parameter_groups for name in group.parameters}
    assert named == trained
    assert len(trained) == 4
    file = tmp_path / "checkpoint-4" / "adapter_model.safetensors"
    held = load_file(file)
    save_file({name: held[name] for name in list(held)[1:]}, file)
    with pytest.raises(InputError, match="does not fit the model"):
        CheckpointFolder(tmp_path).load(file.parent, other)
