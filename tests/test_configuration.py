"""Parameters in the catalog, as Kedro's loader gives them."""

import pytest

from sourcetrace.configuration import ParameterAwareConfigLoader


@pytest.mark.filterwarnings("ignore:register_new_resolver")  # Kedro calls it, too
def test_the_catalog_and_the_run_see_the_same_parameters(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "local").mkdir()
    parameters, catalog = tmp_path / "base" / "parameters.yml", tmp_path / "base" / "catalog.yml"
    parameters.write_text("folder: {path: written, kind: fast}")
    catalog.write_text("one: {filepath: '${parameter:folder.path}/${parameter:folder.kind}'}")
    loader = ParameterAwareConfigLoader(
        str(tmp_path),
        base_env="base",
        default_run_env="local",
        runtime_params={"folder": {"path": "given"}},
    )
    expected = {"folder": {"path": "given", "kind": "fast"}}
    assert loader["parameters"] == expected
    parameters.write_text("folder: {path: later, kind: slow}")
    assert loader["parameters"] == expected
    assert loader["catalog"] == {"one": {"filepath": "given/fast"}}
