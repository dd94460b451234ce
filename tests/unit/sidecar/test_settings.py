from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_llm.sidecar.settings import (
    ConfigError,
    GeminiProvider,
    OpenAIProvider,
    Settings,
    StrategySpec,
    check_name,
    load,
)
from batch_llm.strategies.local.files import BUNDLED_MODEL

SIMULATED = '[providers.sim]\nkind = "simulated"\n'
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "sidecar.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def strategy(text: str) -> str:
    return f'{SIMULATED}[strategies.triage]\nprovider = "sim"\n{text}'


def gemini(text: str = "", strategy: str = "") -> str:
    provider = f'[providers.g]\nkind = "gemini"\nproject = "p"\nlocation = "l"\n{text}\n'
    return f'{provider}[strategies.triage]\nprovider = "g"\noutput_json_schema = "{{}}"\n{strategy}'


def refusal(path: Path | None, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        load(path, environment or {})
    return str(refused.value)


# -- what is refused, by file, key and reason --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("[server]\nmax_concurency = 5", "server.max_concurency", "unknown key"),
        ("[servers]", "servers", "unknown key"),
        ('[providers.sim]\nkind = "simulated"\napi_key = "x"', "providers.sim.api_key", "unknown key"),
        ('[server]\nmax_concurrency = "many"', "server.max_concurrency", "(got 'many')"),
        ("[server]\nmax_concurrency = 0", "server.max_concurrency", "greater than or equal to 1 (got 0)"),
        ("[server]\nlisten = []", "server.listen", "at least 1 item"),
        ('[server]\nlog_level = "LOUD"', "server.log_level", "(got 'LOUD')"),
        ("server = 5", "server", "(got 5)"),
        ('[providers.sim]\nkind = "gemeni"', "providers.sim", "'gemeni'"),
        ("[providers.sim]\nmax_concurrency = 1", "providers.sim", "kind"),
        ("providers = 5", "providers", "must be tables [providers.NAME]"),
        ("[strategies]\ntriage = 5", "strategies", "must be tables [strategies.NAME]"),
        ('[providers."a b"]\nkind = "simulated"', "providers", "the name 'a b' must be"),
        ("[strategies.triage]", "strategies.triage.provider", "Field required"),
        (
            f'{SIMULATED}[strategies.triage]\nprovider = "gemini"',
            "strategies.triage.provider",
            "no provider 'gemini'; known: sim; add [providers.gemini]",
        ),
        (
            strategy("[strategies.triage.retry]\nmax_wait_seconds = 0.5"),
            "strategies.triage.retry.max_wait_seconds: ",
            "must not be less than initial_wait_seconds (1)",
        ),
        ('[server]\nlisten = ["a:1", "b:2", "a:1"]', "server.listen", "'a:1' comes twice"),
        ('[server]\nlisten = ["unix:/a", "unix:/a"]', "server.listen", "'unix:/a' comes twice"),
        ('[server]\nlisten = ["a:1", "b:2"]\nhealth_listen = "b:2"', "server.health_listen", "an address of `listen`"),
        ('[server]\nlisten = "unix:"', "server.listen", "'unix:' is neither unix:/path/to.sock nor host:port"),
        ('[server]\nlisten = "unix://"', "server.listen", "'unix://' is neither unix:/path/to.sock nor host:port"),
        (
            '[server]\nhealth_listen = "a:²"',
            "server.health_listen",
            "'a:²' is neither unix:/path/to.sock nor host:port",
        ),
        (
            f'[providers.sim]\nkind = "local"\nmodel_sha256 = "{"0" * 64}"',
            "providers.sim.model_sha256",
            "there is no model_path",
        ),
        (
            '[providers.sim]\nkind = "local"\ncontext_tokens = 512\n[strategies.triage]\nprovider = "sim"\n'
            "generation = {max_output_tokens = 513}",
            "strategies.triage.generation.max_output_tokens",
            "prompt and output have 512 tokens together",
        ),
        (
            strategy('generation = {stop_sequences = ["\\n", ""]}'),
            "strategies.triage.generation.stop_sequences",
            "an entry is empty",
        ),
        (
            strategy('output_json_schema = "{}"\nescalation_models = ["simulated"]'),
            "strategies.triage.escalation_models",
            "'simulated' comes twice",
        ),
        (
            f'{SIMULATED}models = ["big"]\n[strategies.triage]\nprovider = "sim"',
            "strategies.triage.model",
            "has no model 'simulated'; known: big",
        ),
        (strategy('output_json_schema = "{"'), "strategies.triage.output_json_schema", "is not JSON"),
        (strategy('output_json_schema = { type = "text" }'), "strategies.triage.output_json_schema", "at type"),
        (strategy('cached_content = ["a", " "]'), "strategies.triage.cached_content", "an entry is blank"),
        (strategy('cached_content = "all"'), "strategies.triage.cached_content", ""),
        (strategy("cached_content = 5"), "strategies.triage.cached_content", ""),
        (strategy('cached_content_files = "a.md"'), "strategies.triage.cached_content_files", "must be a list"),
        (strategy("attempt_timeout_seconds = inf"), "strategies.triage.attempt_timeout_seconds", ""),
        (strategy("attempt_timeout_seconds = nan"), "strategies.triage.attempt_timeout_seconds", ""),
        # Strict: what is no number stays none.
        ("[server]\nmax_concurrency = true", "server.max_concurrency", "whole number, without quotes (got True)"),
        ('[server]\nmax_concurrency = "5"', "server.max_concurrency", "whole number, without quotes (got '5')"),
        ("[server]\nmax_concurrency = 5.0", "server.max_concurrency", "whole number, without quotes (got 5.0)"),
        ("[server]\nmax_concurrency = nan", "server.max_concurrency", "whole number, without quotes (got nan)"),
        ('[server]\ndrain_timeout_seconds = "5"', "server.drain_timeout_seconds", "must be a number, without quotes"),
        (
            "[server]\ndrain_timeout_seconds = true",
            "server.drain_timeout_seconds",
            "must be a number, without quotes (got True)",
        ),
        ("[server]\nallow_registration = 1", "server.allow_registration", "must be true or false, without quotes"),
        ('[server]\nallow_registration = "yes"', "server.allow_registration", "must be true or false"),
        ("[server]\nstate_dir = 5", "server.state_dir", "must be the name of a file or directory"),
        ('[server]\nlisten = ["unix:/a", 5]', "server.listen.1", "must be text, in quotes (got 5)"),
        *[
            (
                f"{SIMULATED}max_concurrency = {value}",
                "providers.sim.max_concurrency",
                'must be a whole number from 1 to 10000, or "adaptive" (got ',
            )
            for value in ("true", '"5"', "5.0", "0", '"auto"', "10001")
        ],
        (f"{SIMULATED}requests_per_minute = 2.5", "providers.sim.requests_per_minute", "must be a whole number"),
        (f'{SIMULATED}models = "big"', "providers.sim.models", "must be a list (got 'big')"),
        (strategy('escalation_models = "big"'), "strategies.triage.escalation_models", "must be a list (got 'big')"),
        (
            strategy('[strategies.triage.generation]\nstop_sequences = "END"'),
            "strategies.triage.generation.stop_sequences",
            "must be a list (got 'END')",
        ),
        (
            strategy("[strategies.triage.generation]\ntemperature = true"),
            "strategies.triage.generation.temperature",
            "must be a number",
        ),
        (strategy("[strategies.triage.retry]\njitter = 0"), "strategies.triage.retry.jitter", "must be true or false"),
        # Gemini.
        ('[providers.g]\nkind = "gemini"\nproject = " "\nlocation = "l"', "providers.g.project", "is blank"),
        (
            '[providers.g]\nkind = "gemini"\nproject = "p"\nlocation = "\\t"',
            "providers.g.location",
            "is blank; name one",
        ),
        (gemini(strategy='model = " "'), "strategies.triage.model", "is blank; "),
        (
            gemini(strategy='model = "models/"'),
            "strategies.triage.model",
            "needs one; give it as",
        ),
        *[
            (
                gemini(strategy=f'model = "gemini-2.5-flash"\nescalation_models = ["{prefix}gemini-2.5-flash"]'),
                "strategies.triage.escalation_models",
                f"'{prefix}gemini-2.5-flash' comes twice",
            )
            for prefix in ("models/", "publishers/google/models/")
        ],
        *[
            (
                gemini(strategy=f'model = "m"\ngeneration = {{ tools = [{tool}] }}'),
                "strategies.triage.generation.tools",
                "is no tool; one is a table, `{ googleSearch = {} }`",
            )
            for tool in ("{ googleSearch = 1 }", "{}", "{ functionDeclarations = [1] }")
        ],
        # Contradictions.
        (
            f"{SIMULATED}rate_limit = {{cooldown_seconds = 600}}",
            "providers.sim.rate_limit.max_cooldown_seconds",
            "must not be less than cooldown_seconds (600); raise it or lower the first pause (got 300.0)",
        ),
        (
            f"{SIMULATED}rate_limit = {{slow_start_initial_delay_seconds = 0.01}}",
            "providers.sim.rate_limit.slow_start_final_delay_seconds",
            "must not be more than slow_start_initial_delay_seconds (0.01): a slow start gets faster; lower it",
        ),
        (
            f"{SIMULATED}rate_limit = {{cooldown_seconds = 1e300, max_cooldown_seconds = 10}}",
            "providers.sim.rate_limit.cooldown_seconds",
            "less than or equal to",
        ),
        (
            strategy('output_json_schema = "{}"\nescalation_models = ["b", "c", "d"]'),
            "strategies.triage.escalation_models",
            "with retry.max_attempts = 3 no attempt is left for 'd'; raise that to 4 or name fewer models",
        ),
        (
            strategy('output_json_schema = "{}"\nescalation_models = ["b"]\nretry = {max_attempts = 1}'),
            "strategies.triage.escalation_models",
            "with retry.max_attempts = 1 no attempt is left for 'b'; raise that to 2",
        ),
        (
            strategy('escalation_models = ["b"]'),
            "strategies.triage.escalation_models",
            "without output_json_schema every output passes validation, so no item moves up; give a schema or",
        ),
        (
            strategy("max_concurrency = 1025"),
            "strategies.triage.max_concurrency",
            "1025 calls are never in flight, because provider 'sim' has max_concurrency = 1024; raise that, or leave",
        ),
        (
            '[providers.sim]\nkind = "local"\nslots = 3\n[strategies.triage]\nprovider = "sim"\nmax_concurrency = 4',
            "strategies.triage.max_concurrency",
            "4 calls are never in flight, because provider 'sim' has slots = 3; raise that, or leave",
        ),
        (
            '[providers.sim]\nkind = "local"\n[strategies.triage]\nprovider = "sim"\noutput_json_schema = "{}"\n'
            f'escalation_models = ["{BUNDLED_MODEL}"]',
            "strategies.triage.escalation_models",
            f"provider 'sim' runs '{BUNDLED_MODEL}' alone; leave it out",
        ),
        (strategy("attempt_timeout_seconds = 0.009"), "strategies.triage.attempt_timeout_seconds", "equal to 0.01"),
        (
            strategy('[strategies.triage.generation]\ngrammar = "root ::="'),
            "generation.grammar",
            "only a local provider",
        ),
    ],
)
def test_a_mistake_is_told_by_file_key_and_reason(write: Write, text: str, key: str, reason: str) -> None:
    path = write(text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        strategy('output_json_schema = "{}"\nescalation_models = ["b", "c"]\nattempt_timeout_seconds = 0.01'),
        strategy("max_concurrency = 1024"),
        f'{SIMULATED}max_concurrency = "adaptive"\n[strategies.triage]\nprovider = "sim"\nmax_concurrency = 9999',
        '[providers.own]\nkind = "python"\nfactory = "a:b"\n[strategies.triage]\nprovider = "own"\n'
        'escalation_models = ["b"]',
        f"{SIMULATED}rate_limit = {{cooldown_seconds = 300, slow_start_initial_delay_seconds = 0.05}}",
        f"{SIMULATED}rate_limit = {{cooldown_seconds = 0, max_cooldown_seconds = 0}}",
        '[server]\nlisten = ["a:0", "a:0", "[::1]:5"]\nhealth_listen = "a:0"',
        f'{SIMULATED}models = ["simulated"]\n[strategies.triage]\nprovider = "sim"',
        '[providers.sim]\nkind = "local"\ncontext_tokens = 512\n[strategies.triage]\nprovider = "sim"\n'
        "generation = {max_output_tokens = 512}",
        strategy('generation = {stop_sequences = ["\\n\\n", " "]}'),
    ],
    ids=[
        "steps and time",
        "its limit",
        "no fixed limit",
        "checks itself",
        "equal delays",
        "no pause",
        "any ports",
        "its default model",
        "all of the context",
        "white space stops",
    ],
)
def test_the_ends_of_what_fits_together_are_allowed(write: Write, text: str) -> None:
    load(write(text), {})


def test_a_schemas_mistake_is_told_once_and_in_short(write: Write) -> None:
    schema = '{"$ref": "http://x/y", "description": "' + "long " * 1000 + '"}'
    message = refusal(write(strategy(f"output_json_schema = '{schema}'")))
    assert message.count("output_json_schema") == 1
    assert "strategies.triage.output_json_schema: is no valid JSON Schema: " in message
    assert "a schema may refer to itself only, not to http://x/y" in message
    assert len(message) < 600


def test_a_password_in_a_url_that_is_refused_is_not_told(write: Write) -> None:
    message = refusal(write('[journal]\nurl = "postgresql+psycopg://batch:secret@host/database"'))
    assert "journal.url: must be sqlite, sqlite:///path, postgresql://… or memory" in message
    assert "secret" not in message


@pytest.mark.parametrize("url", ["memory:", "sqlite:", "sqlite://x.db", "sqlite:x.db", "PostgreSQL://host/database"])
def test_a_url_that_would_be_taken_for_a_path_is_refused(write: Write, url: str) -> None:
    message = refusal(write(f'[journal]\nurl = "{url}"'))
    assert "journal.url: must be sqlite, sqlite:///path, postgresql://… or memory" in message


def test_each_mistake_has_a_line(write: Write) -> None:
    lines = refusal(write('[server]\nmax_concurrency = 0\nlog_level = "LOUD"\nport = 5')).splitlines()
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("content", "reason"), [(b"listen = ", "is not TOML"), (b"# \xff", "is not UTF-8"), (None, "cannot be read")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "sidecar.toml"
    if content is not None:
        path.write_bytes(content)
    assert refusal(path).startswith(f"{path}: {reason}")


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "7", "x" * 64])
def test_names_that_are_allowed(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "ä", "a/b", "a\n", "x" * 65])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64 letters"):
        check_name(name)


# -- files -------------------------------------------------------------------------------------------------------------


def test_content_files_are_relative_to_the_file_and_follow_the_content(write: Write) -> None:
    write("  from the file\n", "handbook.md")
    path = write(strategy('cached_content = ["first"]\ncached_content_files = ["handbook.md"]'))
    assert load(path, {}).strategies["triage"].cached_content == ("first", "from the file")


def test_a_content_file_that_is_missing_is_named(write: Write, tmp_path: Path) -> None:
    message = refusal(write(strategy('cached_content_files = ["handbook.md"]')))
    assert "strategies.triage.cached_content_files" in message
    assert str(tmp_path / "handbook.md") in message


def test_a_model_file_is_relative_to_the_file_and_must_be_there(write: Write, tmp_path: Path) -> None:
    path = write('[providers.local]\nkind = "local"\nmodel_path = "model.gguf"')
    assert f"providers.local.model_path: {tmp_path / 'model.gguf'} is no file" in refusal(path)
    (tmp_path / "model.gguf").touch()
    provider: Any = load(path, {}).providers["local"]
    assert provider.model_path == tmp_path / "model.gguf"


# -- the environment ---------------------------------------------------------------------------------------------------


def test_the_environment_is_laid_over_the_file(write: Write) -> None:
    path = write("[server]\nmax_concurrency = 5\nmax_message_bytes = 100000\n" + strategy('model = "a"'))
    settings = load(
        path,
        {
            "BATCH_LLM_SERVER__MAX_CONCURRENCY": "7",
            "BATCH_LLM_SERVER__STATE_DIR": "/data",
            "BATCH_LLM_SERVER__LISTEN": '["unix:/a", "127.0.0.1:0"]',
            "BATCH_LLM_STRATEGIES__TRIAGE__MODEL": "b",
            "BATCH_LLM_STRATEGIES__TRIAGE__RETRY__JITTER": "false",
            "OTHER_SERVER__MAX_CONCURRENCY": "9",
        },
    )
    assert (settings.server.max_concurrency, settings.server.max_message_bytes) == (7, 100_000)
    assert settings.server.state_dir == Path("/data")
    assert settings.server.listen == ("unix:/a", "127.0.0.1:0")
    spec = settings.strategies["triage"]
    assert (spec.provider, spec.model, spec.retry.jitter) == ("sim", "b", False)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MAX_CONCURRENCY", "true", "server.max_concurrency: must be a whole number"),
        ("MAX_CONCURRENCY", '"7"', "server.max_concurrency: must be a whole number"),
        ("ALLOW_REGISTRATION", "no", "server.allow_registration: must be true or false"),
        ("DRAIN_TIMEOUT_SECONDS", "NaN", "server.drain_timeout_seconds: "),
    ],
)
def test_the_environment_is_no_less_strict(name: str, value: str, reason: str) -> None:
    assert reason in refusal(None, {f"BATCH_LLM_SERVER__{name}": value})


def test_an_unknown_key_in_the_environment_is_refused_too() -> None:
    assert "server.max_concurency: unknown key" in refusal(None, {"BATCH_LLM_SERVER__MAX_CONCURENCY": "7"})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("SERVER__MAX_CONCURRENCY", "0", "server.max_concurrency: Input should be greater than or equal to 1 (got 0)"),
        ("SERVER__LISTEN", '["nowhere"]', "server.listen: 'nowhere' is neither"),
        ("SERVER__PORT", "5", "server.port: unknown key"),
        ("SERVER__ALLOW_REGISTRATION", "True", "server.allow_registration: must be true or false, in lower case"),
        ("PROVIDERS__SIM__HIDDEN_MAX_IN_FLIGHT", "few", "providers.sim.hidden_max_in_flight: must be a whole number"),
        ("PROVIDERS__OTHER__KIND", "magic", "providers.other.kind: is 'magic'; known: "),
        (
            "STRATEGIES__TRIAGE__RETRY__JITTER",
            "False",
            "strategies.triage.retry.jitter: must be true or false, in lower",
        ),
        ("STRATEGIES__TRIAGE__CACHED_CONTENT_FILES", "a.md", "strategies.triage.cached_content_files: must be a list"),
        ("STRATEGIES__OTHER", "5", "strategies: must be tables [strategies.NAME]"),
    ],
)
def test_a_variable_that_is_wrong_is_named_and_not_the_file(write: Write, name: str, value: str, reason: str) -> None:
    path = write(strategy(""))
    assert refusal(path, {f"BATCH_LLM_{name}": value}).startswith(f"BATCH_LLM_{name}: {reason}")


def test_what_is_wrong_in_the_file_is_not_put_down_to_a_variable(write: Write) -> None:
    path = write("[server]\nmax_concurrency = 0\nallow_registration = 'True'")
    lines = refusal(path, {"BATCH_LLM_SERVER__LOG_LEVEL": "LOUD"}).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(path), str(path), "BATCH_LLM_SERVER__LOG_LEVEL"]
    assert "must be true or false, without quotes" in lines[1]


def test_a_variable_below_what_is_no_table_is_named(write: Write) -> None:
    name = "BATCH_LLM_SERVER__MAX_CONCURRENCY__X"
    message = refusal(write("[server]\nmax_concurrency = 5"), {name: "1"})
    assert message.startswith(f"{name}: max_concurrency is no table")


# -- defaults ----------------------------------------------------------------------------------------------------------


def test_without_a_file_what_works_as_it_is_is_offered() -> None:
    settings = load(None, {})
    assert settings.providers["simulated"].kind == "simulated"
    assert settings.strategies == {}


def test_a_file_without_providers_has_none(write: Write) -> None:
    assert load(write(""), {}).providers == {}


def test_the_state_is_where_the_system_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert Settings().server.state_dir == Path("/state/batch-llm")


def test_one_address_needs_no_list(write: Write) -> None:
    assert load(write('[server]\nlisten = "unix:/a"'), {}).server.listen == ("unix:/a",)


@pytest.mark.parametrize(("ttl", "buffer"), [(3600, 300), (600, 300), (100, 50), (1, 0.5), (None, 300)])
def test_the_renewal_buffer_fits_the_life(ttl: float | None, buffer: float) -> None:
    values = {} if ttl is None else {"cache_ttl_seconds": ttl}
    assert StrategySpec.model_validate({"provider": "sim", **values}).cache_renewal_buffer_seconds == buffer


@pytest.mark.parametrize(
    "values", ["cache_ttl_seconds = 100\ncache_renewal_buffer_seconds = 100", "cache_ttl_seconds = 0.5"]
)
def test_a_buffer_that_is_no_less_than_the_life_is_refused(write: Write, values: str) -> None:
    message = refusal(write(strategy(values)))
    assert "strategies.triage" in message
    assert "cache_" in message


def test_grammar_and_schema_exclude_each_other(write: Write) -> None:
    text = '[providers.sim]\nkind = "local"\n[strategies.triage]\nprovider = "sim"\noutput_json_schema = "{}"\n'
    message = refusal(write(f'{text}[strategies.triage.generation]\ngrammar = "root ::= x"'))
    assert "generation.grammar and output_json_schema both constrain the output" in message


def test_a_strategys_settings_reach_the_engine(write: Write) -> None:
    text = """
cache_ttl_seconds = 50
auto_renew = false
[strategies.triage.retry]
max_attempts = 7
initial_wait_seconds = 0.5
max_wait_seconds = 9
exponential_base = 3
jitter = false
"""
    spec = load(write(strategy(text)), {}).strategies["triage"]
    policy, retry = spec.cache_policy(), spec.retry.engine_config()
    assert (policy.ttl_seconds, policy.renewal_buffer_seconds, policy.auto_renew) == (50, 25, False)
    assert (retry.max_attempts, retry.initial_wait, retry.max_wait) == (7, 0.5, 9)
    assert (retry.exponential_base, retry.jitter) == (3, False)


def test_a_schema_may_be_a_table(write: Write) -> None:
    spec = load(write(strategy('output_json_schema = { type = "object" }')), {}).strategies["triage"]
    assert spec.output_json_schema == '{"type": "object"}'


@pytest.mark.parametrize("tool", ["{ googleSearch = {} }", '{ functionDeclarations = [{ name = "find" }] }'])
def test_tools_are_tables_by_name(write: Write, tool: str) -> None:
    settings = load(write(gemini(strategy=f'model = "m"\ngeneration = {{ tools = [{tool}] }}')), {})
    assert len(settings.strategies["triage"].generation.tools) == 1


def test_a_tuned_model_is_another_than_the_one_it_is_called_after(write: Write) -> None:
    load(write(gemini(strategy='model = "x"\nescalation_models = ["tunedModels/x"]')), {})


@pytest.mark.parametrize("kind", ["gemini", "openai"])
@pytest.mark.parametrize("key", ["top secret", "sécret", "top\nsecret"])
def test_a_key_that_can_be_none_is_refused_and_not_shown(
    write: Write, monkeypatch: pytest.MonkeyPatch, kind: str, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    message = refusal(write(f'[providers.p]\nkind = "{kind}"\napi_key_env = "MY_KEY"'))
    assert "the environment variable MY_KEY holds no API key: white space or a character that is not ASCII" in message
    assert "cret" not in message


@pytest.mark.parametrize("kind", ["gemini", "openai"])
def test_white_space_around_a_key_does_not_matter(write: Write, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    file = write(f'[providers.p]\nkind = "{kind}"\napi_key_env = "MY_KEY"')
    monkeypatch.setenv("MY_KEY", " secret\n")
    provider = load(file, {}).providers["p"]
    assert isinstance(provider, GeminiProvider | OpenAIProvider)
    assert provider.api_key() == "secret"
    monkeypatch.setenv("MY_KEY", " \n")
    assert "the environment variable MY_KEY is not set" in refusal(file)


def test_a_blank_key_makes_no_provider() -> None:
    assert not {"gemini", "openai"} & {*load(None, {"GEMINI_API_KEY": " ", "OPENAI_API_KEY": "\n"}).providers}
