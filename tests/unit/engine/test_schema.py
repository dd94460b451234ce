import json
from pathlib import Path
from typing import Any

import pytest
from batch_llm.model import OutputValidationError
from batch_llm.strategies.schema import OutputSchema

LABEL: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"enum": ["a", "b"]}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["label"],
}


@pytest.mark.parametrize("schema", [LABEL, json.dumps(LABEL)], ids=["mapping", "text"])
@pytest.mark.parametrize("output", ['{"label": "a"}', {"label": "b", "tags": ["x"]}])
def test_what_matches_passes(schema: Any, output: Any) -> None:
    OutputSchema(schema).check(output)


def test_every_mismatch_is_listed_with_its_place() -> None:
    with pytest.raises(OutputValidationError) as raised:
        OutputSchema(LABEL).check('{"label": "c", "tags": ["x", 7]}')
    assert sorted(raised.value.errors) == ["at label: 'c' is not one of ['a', 'b']", "at tags/1: 7 is not of type 'string'"]
    assert raised.value.output == '{"label": "c", "tags": ["x", 7]}'


@pytest.mark.parametrize(
    ("output", "error"), [("{}", "at its root: 'label' is a required property"), ("label: a", "not JSON: Expecting value")]
)
def test_a_mismatch_of_the_whole_says_so(output: str, error: str) -> None:
    with pytest.raises(OutputValidationError, match=error):
        OutputSchema(LABEL).check(output)


@pytest.mark.parametrize("output", ["NaN", "Infinity", "[-Infinity]"])
def test_numbers_that_json_does_not_have_are_no_json(output: str) -> None:
    with pytest.raises(OutputValidationError, match="not JSON"):
        OutputSchema({}).check(output)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ("{", "is not JSON"),
        ({"type": "text"}, "at type: 'text' is not valid"),
        ({"properties": {"label": {"enum": "a"}}}, "at properties/label/enum:"),
        ("[]", "at its root:"),
        ({"$ref": "#/$defs/missing"}, "missing"),
    ],
    ids=["no JSON", "no type", "deep", "no schema", "dangling reference"],
)
def test_an_invalid_schema_is_refused_with_the_place(schema: Any, place: str) -> None:
    with pytest.raises(ValueError, match=r"^output_json_schema is .*") as refused:
        OutputSchema(schema)
    assert place in str(refused.value)


def test_a_schema_cannot_make_the_sidecar_open_an_address(tmp_path: Path) -> None:
    # An application sets the schema by RPC; a URL in it would be opened with the sidecar's rights.
    secret = tmp_path / "secret.json"
    secret.write_text('{"const": "s3cret"}')
    try:
        OutputSchema({"$ref": secret.as_uri()}).check('"guess"')
    except Exception as error:
        assert "s3cret" not in str(error)
    else:
        raise AssertionError("a reference that leads nowhere was accepted")
