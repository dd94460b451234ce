import json

import pytest

from batch_llm_client.strategies import to_spec
from batchllm.v1.strategy_service_pb2 import StrategySpec

EVERY_KEY = {
    "name": "triage",
    "provider": "gemini",
    "model": "m",
    "system_instruction": "Label it.",
    "cached_content": ["a", "b"],
    "cache_ttl_seconds": 3600,
    "cache_renewal_buffer_seconds": 0.5,
    "auto_renew": False,
    "cache_tags": {"team": "x"},
    "escalation_models": ["larger"],
    "max_concurrency": 8,
    "attempt_timeout_seconds": 30,
    "output_json_schema": {"type": "object"},
    "retry": {
        "max_attempts": 4,
        "initial_wait_seconds": 0.25,
        "max_wait_seconds": 10,
        "exponential_base": 3,
        "jitter": False,
        "max_rate_limit_retries": 0,
    },
    "generation": {
        "temperature": 0,
        "max_output_tokens": 100,
        "top_p": 0.5,
        "top_k": 3,
        "seed": 7,
        "stop_sequences": ["\n"],
        "grammar": "root ::= [a-z]+",
    },
}


def test_every_key() -> None:
    spec = to_spec(EVERY_KEY)
    assert list(spec.cached_content) == ["a", "b"]
    assert spec.cache_ttl.seconds == 3600
    assert spec.cache_renewal_buffer.ToMilliseconds() == 500
    assert spec.HasField("auto_renew")
    assert not spec.auto_renew
    assert spec.cache_tags == {"team": "x"}
    assert spec.attempt_timeout.seconds == 30
    assert json.loads(spec.output_json_schema) == {"type": "object"}
    assert (spec.retry.max_attempts, spec.retry.initial_wait.ToMilliseconds()) == (4, 250)
    assert (spec.retry.exponential_base, spec.retry.max_wait.seconds) == (3.0, 10)
    assert spec.retry.HasField("jitter")
    assert spec.generation.HasField("temperature")
    assert (spec.generation.top_k, spec.generation.seed, spec.generation.stop_sequences) == (3, 7, ["\n"])
    assert len(EVERY_KEY) == len(StrategySpec.DESCRIPTOR.fields)


def test_a_spec_is_left_alone() -> None:
    spec = StrategySpec(name="x")
    assert to_spec(spec) is spec


def test_schema_as_text() -> None:
    assert to_spec({"output_json_schema": '{"type": "string"}'}).output_json_schema == '{"type": "string"}'


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"modle": "m"}, "unknown key 'modle'; known: name, provider, model,"),
        ({"cache_ttl": 5}, "unknown key 'cache_ttl'; known: .*cache_ttl_seconds"),
        ({"retry": {"attempts": 3}}, r"unknown key 'retry.attempts'; known: retry.max_attempts, .*retry.jitter"),
        ({"name": 5}, "name must be a string, not 5"),
        ({"auto_renew": 1}, "auto_renew must be true or false, not 1"),
        ({"max_concurrency": True}, "max_concurrency must be an integer, not True"),
        ({"max_concurrency": 1.5}, "max_concurrency must be an integer"),
        ({"max_concurrency": 2**40}, "max_concurrency: "),
        ({"cache_ttl_seconds": "1h"}, "cache_ttl_seconds must be a number, not '1h'"),
        ({"cache_ttl_seconds": float("nan")}, "cache_ttl_seconds: .*finite"),
        ({"cache_ttl_seconds": 1e30}, "cache_ttl_seconds: "),
        ({"cached_content": "text"}, "cached_content must be a list of strings"),
        ({"cached_content": [1]}, "cached_content must be a list of strings"),
        ({"cache_tags": {"a": 1}}, "cache_tags must be a table of strings"),
        ({"retry": 3}, "retry must be a table"),
        ({"generation": {"temperature": "hot"}}, "generation.temperature must be a number"),
    ],
)
def test_bad_values_are_named(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_spec(bad)
