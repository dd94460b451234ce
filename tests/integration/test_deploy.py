"""deploy/: the image's recipe builds and runs, the manifest is valid and agrees with image and settings.

There is no container engine to rely on, so the Containerfile's own instructions are executed below a directory that
stands in for `/`.
"""

import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batch_llm._version import __version__
from batch_llm.sidecar.settings import Settings, load
from tests.faults.processes import until

pytestmark = pytest.mark.timeout(240)  # the recipe installs from a package index

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
MANIFEST = ROOT / "deploy" / "kubernetes.yaml"
NONROOT = 65532
OLDEST_KUBERNETES = "1.29"  # the first with native sidecars enabled; README and manifest name it

SERVING = health_pb2.HealthCheckResponse.SERVING


class Instruction(NamedTuple):
    name: str
    text: str


def stages() -> list[list[Instruction]]:
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.startswith("#")]
    found: list[list[Instruction]] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, text = line.split(maxsplit=1)
            if name == "FROM":
                found.append([])
            found[-1].append(Instruction(name, text))
    return found


def last(name: str) -> str:
    """What the image's configuration has: the last stage's last such instruction."""
    return [instruction.text for instruction in stages()[-1] if instruction.name == name][-1]


class Image:
    """Executes the Containerfile, with `root` in place of `/` and this user in place of the image's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        base, builder, final = stages()
        assert [instruction.name for instruction in base] == ["FROM"]
        copied = [text for name, text in final if name == "COPY"]
        subprocess.run([sys.executable, "-m", "venv", root / "usr" / "local"], check=True)  # what the base brings
        clean = {"PATH": f"{root}/usr/local/bin:/usr/bin:/bin", "HOME": os.environ["HOME"]}
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        self._execute(builder, clean | pip)
        kept = {"usr", *(shlex.split(text)[-1].split("/")[1] for text in copied)}
        for leftover in root.iterdir():
            if leftover.name not in kept:
                shutil.rmtree(leftover)
        self.env = self._execute(final, clean)

    def at_root(self, text: str) -> str:
        return re.sub(r"(?<![\w.*}$/-])/(?=\w)", f"{self.root}/", text)

    def run(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.env, cwd=self.root, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def _execute(self, stage: list[Instruction], env: dict[str, str]) -> dict[str, str]:
        env, cwd = dict(env), self.root
        for name, original in stage:
            text = self.at_root(original)
            if name in {"ENV", "ARG"}:
                for assignment in shlex.split(text):
                    key, _, value = assignment.partition("=")
                    env[key] = string.Template(value).substitute(env)
            elif name == "WORKDIR":
                cwd = self.root / text
                cwd.mkdir(parents=True, exist_ok=True)
            elif name == "COPY" and original.startswith("--from=builder "):
                _, source, destination = shlex.split(original)
                assert source == destination, "a virtual environment works only where it was made"
            elif name == "COPY":
                source, destination = shlex.split(original)
                if (ROOT / source).is_dir():
                    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
                    shutil.copytree(ROOT / source, cwd / destination, ignore=skipped)
                else:
                    shutil.copy(ROOT / source, cwd / destination)
            elif name == "RUN":
                text = text.replace(f"-o {NONROOT}", f"-o {os.getuid()}").replace(f"-g {NONROOT}", f"-g {os.getgid()}")
                (self.root / "var" / "lib").mkdir(parents=True, exist_ok=True)  # these two the base brings
                (self.root / "run").mkdir(exist_ok=True)
                done = subprocess.run(["/bin/sh", "-c", text], env=env, cwd=cwd, capture_output=True, text=True)
                assert done.returncode == 0, f"RUN {text}\n{done.stdout}{done.stderr}"
            else:
                assert name in {"FROM", "LABEL", "VOLUME", "EXPOSE", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD"}, name
        return env


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(MANIFEST.read_text()) if document]


@pytest.fixture(scope="module")
def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["initContainers"]
    return container


@pytest.fixture(scope="module")
def application(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return container


@pytest.fixture(scope="module")
def toml(documents: list[dict[str, Any]]) -> str:
    (configuration,) = (document for document in documents if document["kind"] == "ConfigMap")
    return configuration["data"]["sidecar.toml"]


@pytest.fixture
def settings(sidecar: dict[str, Any], toml: str, tmp_path: Path) -> Settings:
    """The manifest's file under the image's environment under the manifest's."""
    path = tmp_path / "sidecar.toml"
    path.write_text(toml)
    return load(path, image_variables() | variables(sidecar))


def image_variables() -> dict[str, str]:
    assignments = (assignment.partition("=") for assignment in shlex.split(last("ENV")))
    return {name: value for name, _, value in assignments}


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def mounts(container: dict[str, Any]) -> dict[str, str]:
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}


def port(address: str | None) -> int:
    assert address is not None
    return int(address.rpartition(":")[2])


# The Containerfile


def test_hadolint_passes() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--failure-threshold", "style", CONTAINERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hadolint ignore" not in CONTAINERFILE.read_text()


def test_image_configuration() -> None:
    assert last("USER") == f"{NONROOT}:{NONROOT}"
    assert last("STOPSIGNAL") == "SIGTERM"
    assert json.loads(last("ENTRYPOINT")) == ["batch-llm-sidecar"]
    server = load(None, image_variables()).server
    assert last("EXPOSE") == f"{port(server.health_listen)}/tcp"
    (listen,) = server.listen
    assert set(json.loads(last("VOLUME"))) == {str(server.state_dir), str(Path(listen.removeprefix("unix:")).parent)}


def test_build_context_lets_in_what_is_copied() -> None:
    patterns = CONTAINERFILE.with_name("Containerfile.dockerignore").read_text().splitlines()
    assert "*" in patterns
    copied = [shlex.split(text)[0] for name, text in stages()[1] if name == "COPY"]
    assert {f"!{source.rstrip('/')}" for source in copied} == {line for line in patterns if line.startswith("!")}


def test_image_holds_the_sidecar_alone(image: Image) -> None:
    assert image.run("batch-llm-sidecar", "--version") == f"batch-llm-sidecar {__version__}\n"
    listing = (
        "import json, importlib.metadata as m, batch_llm.sidecar.server, sys;"
        "print(json.dumps([{d.name: d.version for d in m.distributions()}, sys.prefix, sorted(sys.modules)]))"
    )
    distributions, prefix, modules = json.loads(image.run("python", "-c", listing))
    installed = {normal(name): version for name, version in distributions.items()}
    assert prefix == f"{image.root}/opt/batch-llm"
    assert installed.pop("batch-llm") == installed.pop("batch-llm-client") == __version__
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {normal(name): pin for name, _, pin in (line.partition("==") for line in lines)}
    assert installed == {name: pins.get(name) for name in installed}, "not as constraints.txt has it"
    assert not {"google-genai", "xllamacpp", "httpx2", "rich", "pip"} & installed.keys()
    assert not {"google.genai", "xllamacpp"} & set(modules)


@pytest.mark.parametrize("as_in", ["image", "manifest"])
def test_serves_until_sigterm(
    as_in: str, image: Image, sidecar: dict[str, Any], toml: str, request: pytest.FixtureRequest
) -> None:
    arguments, env = json.loads(last("CMD")), dict(image.env)
    if as_in == "manifest":
        configuration = Path(image.at_root(mounts(sidecar)["configuration"]))
        configuration.mkdir(parents=True)
        (configuration / "sidecar.toml").write_text(toml)
        arguments = [image.at_root(argument) for argument in sidecar["args"]]
        env |= {name: image.at_root(value) for name, value in variables(sidecar).items()}
    host = env["BATCH_LLM_SERVER__HEALTH_LISTEN"].rpartition(":")[0]
    env["BATCH_LLM_SERVER__HEALTH_LISTEN"] = f"{host}:0"  # the usual one may be taken here
    listen, log = env["BATCH_LLM_SERVER__LISTEN"], image.root / f"{as_in}.log"
    with running([*json.loads(last("ENTRYPOINT")), *arguments], env, log) as process:
        health = until("its health address", lambda: re.search(r"health alone on (\S+)", log.read_text()))[1]
        assert status(f"127.0.0.1:{port(health)}", "") == SERVING
        assert status(listen, "batchllm.v1.BatchService") == SERVING
        path = Path(listen.removeprefix("unix:"))
        assert path.stat().st_mode & 0o777 == 0o660
        assert (Path(env["BATCH_LLM_SERVER__STATE_DIR"]) / "caches.db").is_file()
        process.send_signal(signal.Signals[last("STOPSIGNAL")])
        assert process.wait(timeout=30) == 0
        assert not path.exists()


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    executable = shutil.which(command[0], path=env["PATH"])
    assert executable is not None
    with log.open("wb") as output, subprocess.Popen([executable, *command[1:]], env=env, stderr=output) as process:
        try:
            yield process
        except BaseException as error:
            error.add_note(log.read_text())
            raise
        finally:
            if process.poll() is None:
                process.kill()


def status(target: str, service: str) -> int:
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
    with grpc.insecure_channel(target, options=options) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, wait_for_ready=True, timeout=30).status


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


# The manifest


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_manifest_fits_the_published_schema(version: str, documents: list[dict[str, Any]]) -> None:
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_schema_is_looked_at(documents: list[dict[str, Any]], sidecar: dict[str, Any]) -> None:
    sidecar = sidecar | {"restartPolicies": "Always"}
    broken = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [sidecar]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, OLDEST_KUBERNETES, strict=True)


def test_sidecar_is_native(sidecar: dict[str, Any]) -> None:
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["image"].endswith(f"/batch-llm-sidecar:{__version__}"), "the manifest names another release"


def test_operators_file_is_accepted(settings: Settings, toml: str) -> None:
    assert settings.strategies
    shadowed = {name.rpartition("__")[2].lower() for name in image_variables() if name.startswith("BATCH_LLM_")}
    set_there = {line.partition("=")[0].strip() for line in toml.splitlines()}
    assert not shadowed & set_there, "the image's variables win, so the file would set these in vain"


def test_probes_ask_where_health_is_served(sidecar: dict[str, Any], settings: Settings) -> None:
    expected = {"port": port(settings.server.health_listen), "service": ""}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[probe]["grpc"] == expected, probe
    assert [entry["containerPort"] for entry in sidecar["ports"]] == [expected["port"]]


def test_there_is_time_to_drain(pod: dict[str, Any], sidecar: dict[str, Any], settings: Settings) -> None:
    drain = settings.server.drain_timeout_seconds
    assert pod["terminationGracePeriodSeconds"] > drain + 5  # closing connections takes up to 2 s, twice
    liveness = sidecar["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > drain + 5


def test_nobody_is_root(pod: dict[str, Any], sidecar: dict[str, Any], application: dict[str, Any]) -> None:
    everybody = pod["securityContext"]
    assert everybody["runAsNonRoot"] is True
    assert everybody["fsGroup"] == NONROOT
    assert everybody["seccompProfile"] == {"type": "RuntimeDefault"}
    assert sidecar["securityContext"]["runAsUser"] == NONROOT
    for container in (sidecar, application):
        context = container["securityContext"]
        assert context["runAsUser"] > 0
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_socket_is_shared_and_state_is_writable(
    pod: dict[str, Any], sidecar: dict[str, Any], application: dict[str, Any], settings: Settings
) -> None:
    (listen,) = settings.server.listen
    assert variables(application)["BATCH_LLM_TARGET"] == listen
    directory = str(Path(listen.removeprefix("unix:")).parent)
    assert mounts(sidecar)["socket"] == mounts(application)["socket"] == directory
    assert mounts(sidecar)["state"] == str(settings.server.state_dir)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes.keys() == mounts(sidecar).keys() | mounts(application).keys()
    assert "emptyDir" in volumes["socket"]


def test_configuration_is_mounted_where_it_is_read(
    documents: list[dict[str, Any]], pod: dict[str, Any], sidecar: dict[str, Any]
) -> None:
    assert Path(sidecar["args"][-1]).parent == Path(mounts(sidecar)["configuration"])
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "configuration")
    (configuration,) = (document for document in documents if document["kind"] == "ConfigMap")
    assert volume["configMap"]["name"] == configuration["metadata"]["name"]
    assert Path(sidecar["args"][-1]).name in configuration["data"]


def test_key_is_optional(sidecar: dict[str, Any]) -> None:
    (key,) = (variable for variable in sidecar["env"] if variable["name"] == "GEMINI_API_KEY")
    assert key["valueFrom"]["secretKeyRef"]["optional"] is True
