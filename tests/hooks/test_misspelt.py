"""What looks like ours, misspelt, is refused; what is theirs is let alone."""

from types import SimpleNamespace

import click
import pytest

from sourcetrace.configuration import merge_parameters, read_parameters
from sourcetrace.errors import InputError
from sourcetrace.hooks import misspelt
from sourcetrace.hooks.misspelt import MisspeltHook, refuse_misspelt
from sourcetrace.parameters import GROUPS
from tests import REPOSITORY


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """Return what the pipelines of the project take, which may be added to."""
    inputs = {"params:gate", "params:verification", "checkpoints"}

    class Pipelines(dict):
        def set_requested(self, names):
            assert names is None

    every = Pipelines(audit=SimpleNamespace(inputs=lambda: inputs))
    monkeypatch.setattr(misspelt, "pipelines", every)
    return inputs


@pytest.fixture(scope="module")
def base():
    files = (REPOSITORY / "conf/base").glob("parameters*.yml")
    return merge_parameters(*map(read_parameters, files))


def test_every_group_of_this_project_is_known(base):
    assert base.keys() == GROUPS.keys()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"segment": {"count": 1}}, "takes segment. Did you mean segments?"),
        ({"checkpoint": {"path": "mine"}}, "takes checkpoint. Did you mean checkpoints?"),
        ({"atribution": {}}, "takes atribution. Did you mean attribution?"),
        ({"aletrs": None}, "takes aletrs. Did you mean alerts?"),
        ({"segments": {"cuont": 1}}, "segments: there is no cuont. Did you mean count?"),
        ({"task": {"argument": {}}}, "task: there is no argument. Did you mean arguments?"),
        ({"attribution": {"astra": {"x": 1}}}, "attribution.astra: there is no x. There are exam"),
        ({"attribution": {"method": "sorce"}}, "attribution.method: "),
    ],
)
@pytest.mark.parametrize("namespace", ["", "churn_audit"])
def test_what_is_misspelt_is_refused_by_name_with_the_nearest(base, given, said, namespace):
    if namespace and "aletrs" in given:
        pytest.skip("alerts are the project's")
    parameters = merge_parameters(base, given)
    if namespace:
        parameters = {namespace: parameters, "training": {"epochs": 3}}
        said = said.replace("takes ", "takes churn_audit.").replace("mean seg", "mean churn_audit.")
    with pytest.raises(InputError) as refused:
        refuse_misspelt(parameters, typed={})
    first, *rest = said.split(" Did you mean ")
    assert first in str(refused.value)
    assert all(one.removeprefix("churn_audit.") in str(refused.value) for one in rest)


def test_what_is_theirs_is_let_alone(base, taken):
    own = {"training": {"segment": 1}, "reporting": {"task": 2}, "rate": 0.1, "labels": {1: "a"}}
    refuse_misspelt({**base, **own}, typed=own)
    refuse_misspelt({"churn_audit": base, **own, "checkpoint": 1, "report": 2}, typed={})
    refuse_misspelt({"one": base, "two": base, **own}, typed={})
    taken.add("params:segment.length")
    refuse_misspelt({**base, "segment": {"length": 3}}, typed={})


def test_values_and_what_others_are_made_of_are_theirs(base):
    refuse_misspelt({**base, "checkpoint": "mine.pt", "_gate": {"rank": 1}}, typed={})
    shared = {"_churn_audit": {"task": {}, "attribution": {}}, "churn_audit": base}
    refuse_misspelt({**shared, "task": "x"}, typed={"task": "x"})


def test_what_is_typed_without_the_namespace_is_refused(base, taken):
    typed = {"attribution": {"method": "influence"}}
    with pytest.raises(InputError, match=r"takes attribution. Did you mean churn_audit\.attri"):
        refuse_misspelt({"churn_audit": base, **typed}, typed=typed)
    with pytest.raises(InputError, match=r"takes churn_adit. Did you mean churn_audit\?"):
        refuse_misspelt({"churn_audit": base, "churn_adit": {"gate": {}}}, typed={})
    taken.add("params:attribution")
    refuse_misspelt({"churn_audit": base, **typed}, typed=typed)


def test_a_pipeline_that_a_command_asks_for_and_nobody_has_is_refused(tmp_path):
    loader = SimpleNamespace(conf_source=str(tmp_path))
    context = SimpleNamespace(config_loader=loader, env=None)
    with click.Context(click.Command("run")) as command:
        command.params["pipelines"] = ["audit"]
        next(MisspeltHook().after_context_created(context))
        command.params["pipelines"] = ["audit", "audt"]
        with pytest.raises(InputError, match=r"no pipeline audt\. Did you mean audit\? There"):
            next(MisspeltHook().after_context_created(context))


def test_an_environment_without_a_folder_is_refused_with_those_that_are_there(tmp_path):
    for name in ("base", "gpt", "local"):
        (tmp_path / name).mkdir()
    (tmp_path / "logging.yml").touch()
    loader = SimpleNamespace(conf_source=str(tmp_path))
    hook = MisspeltHook.after_context_created
    context = SimpleNamespace(config_loader=loader, env="gtp")
    with pytest.raises(InputError, match=r"no environment gtp.* gpt\? There are base, gpt, loc"):
        next(hook(MisspeltHook(), context))
    context.env = "gpt"
    next(hook(MisspeltHook(), context))
