"""The files other programs read: their schemas, and the JUnit XML."""

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from tests.audit.gate.examples import audit_result, one_of_each
from tests.audit.gate.publish_schemas import FOLDER, PUBLISHED, schema_text


def published(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_schema_is_the_models_own(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == schema_text(PUBLISHED[name]), (
        "A model has changed. Raise its schema version, then run "
        "`python -m tests.audit.gate.publish_schemas`."
    )
    Draft202012Validator.check_schema(json.loads(text))


@pytest.mark.parametrize(
    ("name", "content"),
    [("gate.schema.json", one_of_each()), ("audit.schema.json", audit_result())],
)
def test_what_is_written_fits_its_schema_and_nothing_else_does(name, content):
    validator = Draft202012Validator(published(name))
    written = json.loads(json.dumps(content.model_dump(mode="json")))
    validator.validate(written)
    # Readers may rely on every field.
    for field in written:
        with pytest.raises(ValidationError):
            validator.validate({key: value for key, value in written.items() if key != field})
    with pytest.raises(ValidationError):
        validator.validate({**written, "schema_version": "0.9"})
    with pytest.raises(ValidationError):
        validator.validate({**written, "surprise": 1})


def test_every_check_is_a_test_case_of_its_kind():
    report = one_of_each()
    root = ElementTree.fromstring(report.junit().encode())
    (suite,) = root
    assert suite.attrib | {"tests": "5", "failures": "1", "errors": "1", "skipped": "1"} == (
        suite.attrib
    )
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [["failure"], ["error"], ["system-out"], [], ["skipped"]]
    assert [case.get("name") for case in suite] == [check.name for check in report.checks]
    failure = suite[0][0]
    assert failure.get("message") == report.checks[0].message
    assert failure.text == report.checks[0].advice


@settings(derandomize=True, deadline=None)
@given(st.text(st.characters(), max_size=20))
def test_any_label_in_a_message_leaves_well_formed_xml(label):
    report = one_of_each()
    checks = tuple(
        check.model_copy(update={"message": f"label {label}", "advice": label})
        for check in report.checks
    )
    document = report.model_copy(update={"checks": checks}).junit()
    cases = ElementTree.fromstring(document.encode())[0]
    assert len(cases) == len(checks)
    assert cases[0][0].get("message").startswith("label ")
