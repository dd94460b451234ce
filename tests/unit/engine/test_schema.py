import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

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
    assert sorted(raised.value.errors) == [
        'at label: "c" is not one of "a" or "b"',
        'at tags/1: 7 is not of type "string"',
    ]
    assert raised.value.output == '{"label": "c", "tags": ["x", 7]}'


@pytest.mark.parametrize(
    ("output", "error"),
    [("{}", 'at its root: "label" is a required property'), ("label: a", "not JSON: Expecting value")],
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
        ({"type": "text"}, 'at type: "text" is not valid'),
        ({"properties": {"label": {"enum": "a"}}}, "at properties/label/enum:"),
        ("[]", "at its root:"),
        ({"$ref": "#/$defs/missing"}, "missing"),
    ],
    ids=["no JSON", "no type", "deep", "no schema", "dangling reference"],
)
def test_an_invalid_schema_is_refused_with_the_place(schema: Any, place: str) -> None:
    with pytest.raises(ValueError, match=r"^output_json_schema: is .*") as refused:
        OutputSchema(schema)
    assert place in str(refused.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "ADDRESS"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "ADDRESS"}}},
        {"$id": "ADDRESS", "$ref": "other.json"},
        {"$dynamicRef": "ADDRESS"},
    ],
    ids=["direct", "nested", "base", "dynamic"],
)
def test_a_schema_that_refers_to_an_address_is_refused_and_nothing_is_opened(tmp_path: Path, schema: Any) -> None:
    # An application sets the schema by RPC; the sidecar would open the address with its own rights.
    text = json.dumps(schema).replace("ADDRESS", (tmp_path / "secret.json").as_uri())
    with pytest.raises(ValueError, match=r"^output_json_schema: is no valid JSON Schema: .* is not present"):
        OutputSchema(text)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}},
        {"$ref": "#n", "$defs": {"n": {"$anchor": "n", "type": "integer"}}},
        {"$ref": "item", "$defs": {"n": {"$id": "item", "type": "integer"}}},
    ],
    ids=["pointer", "anchor", "id"],
)
def test_references_within_the_schema_are_followed(schema: Any) -> None:
    OutputSchema(schema).check("5")
    with pytest.raises(OutputValidationError):
        OutputSchema(schema).check('"five"')


def test_a_degenerate_output_is_a_mismatch_like_any_other() -> None:
    # Models do get stuck in a loop; another kind of error would count as the provider's failure.
    with pytest.raises(OutputValidationError):
        OutputSchema(LABEL).check("[" * 100_000)


def test_a_pydantic_model_is_checked_as_its_json() -> None:
    class Answer(BaseModel):
        label: str

    OutputSchema(LABEL).check(Answer(label="a"))
    with pytest.raises(OutputValidationError, match="at label"):
        OutputSchema(LABEL).check(Answer(label="c"))
