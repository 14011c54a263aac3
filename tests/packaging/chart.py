"""Checks the Helm chart: chart.py COMMAND..., as tests/packaging/chart.sh uses it.

values                      each file of values fits values.schema.json, and wrong values do not
refused                     prints the wrong values, one a line, as JSON
rendered VALUES MANIFEST    what was rendered from these values fits Kubernetes' schemas and itself
mount MANIFEST DIRECTORY    writes the volumes of a pod as a kubelet does, owned by root, without store
files MANIFEST              prints the secret files that the configuration names

Exits with 1 and prints the differences if there are any.
"""

import copy
import json
import os
import pathlib
import re
import sys
import tomllib

import yaml

CHART = pathlib.Path(__file__).parents[2] / "charts/calmirror"
USER = 65532

# What somebody may write by mistake, as paths in the values.
WRONG = [
    {"replica": 3},
    {"replicas": 0},
    {"replicas": 257},
    {"replicas": "3"},
    {"replicas": 1.5},
    {"config": {"account": {}}},
    {"api": {"token": "secret"}},
    {"api": {"tokenSecret": {"name": ""}}},
    {"api": {"tokenSecret": {"key": "../token"}}},
    {"secrets": [{"name": "contoso"}]},
    {"secrets": [{"name": "Contoso", "secretName": "a"}]},
    {"secrets": [{"name": "api", "secretName": "a"}]},
    {"secrets": [{"name": "a", "secretName": "a", "value": "secret"}]},
    {"files": {"calmirror.toml": ""}},
    {"files": {"../rooms.txt": ""}},
    {"files": {"..data": ""}},
    {"shard": {"url": "http://calmirror:8380"}},
    {"shard": {"url": "calmirror-{ordinal}:8380"}},
    {"shard": {"url": "http://calmirror-{ordinal}/api"}},
    {"persistence": {"size": "10 GB"}},
    {"persistence": {"accessMode": "ReadWriteMany"}},
    {"persistence": {"enabled": False}},
    {"podDisruptionBudget": {"enabled": "true"}},
    {"serviceMonitor": {"interval": 30}},
    {"env": {"A": "b"}},
]

faults = []


def expect(condition, text):
    if not condition:
        faults.append(text)


def merged(base, values):
    """The values in force, as Helm merges them."""
    result = copy.deepcopy(base)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def defaults():
    return yaml.safe_load((CHART / "values.yaml").read_text())


def check_values():
    import jsonschema

    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    for path in [CHART / "values.yaml", *sorted((CHART / "ci").glob("*.yaml"))]:
        values = merged(defaults(), yaml.safe_load(path.read_text()))
        for error in validator.iter_errors(values):
            faults.append(f"{path.name}: {error.json_path}: {error.message}")
    for values in WRONG:
        expect(not validator.is_valid(merged(defaults(), values)), f"accepted: {json.dumps(values)}")
    open_objects = [where for where, one in objects(schema, "$") if "additionalProperties" not in one]
    # Kubernetes' own objects, and the values of charts that contain this one.
    free = {"global", "resources", "affinity", "readers", "egress", "env", "tolerations", "topologySpreadConstraints"}
    for where in open_objects:
        expect(free & set(re.split(r"[.\[]", where)), f"{where} accepts unknown keys")
    missing = set(schema["properties"]) ^ set(defaults()) ^ {"global"}
    expect(not missing, f"in only one of values.yaml and its schema: {missing}")


def objects(schema, where):
    if schema.get("type") == "object":
        yield where, schema
    for name, inner in schema.get("properties", {}).items():
        yield from objects(inner, f"{where}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from objects(schema["items"], f"{where}[]")


class Manifest:
    """What Helm rendered, by kind."""

    def __init__(self, path):
        self.all = [one for one in yaml.safe_load_all(pathlib.Path(path).read_text()) if one]
        self.set = self.one("StatefulSet")
        self.pod = self.set["spec"]["template"]["spec"]
        self.container = self.pod["containers"][0]
        self.data = self.one("ConfigMap")["data"]
        self.own = tomllib.loads(self.data["calmirror.toml"])
        self.given = tomllib.loads(self.data["config.toml"])
        self.mounts = {one["name"]: one for one in self.container["volumeMounts"]}
        self.volumes = {one["name"]: one for one in self.pod["volumes"]}

    def kind(self, kind):
        return [one for one in self.all if one["kind"] == kind]

    def one(self, kind):
        (found,) = self.kind(kind)
        return found

    def secret_files(self):
        """The files that the configuration names, except those that contain no secret."""

        def walk(value):
            if isinstance(value, dict):
                for key, inner in value.items():
                    if key.endswith("_file") and key not in ("ca_file", "mailboxes_file"):
                        yield inner
                    yield from walk(inner)
            elif isinstance(value, list):
                for inner in value:
                    yield from walk(inner)

        return sorted({*walk(self.own), *walk(self.given)})


def selects(labels, one):
    return labels.items() <= one["metadata"].get("labels", {}).items()


def check_rendered(values, path):
    manifest = Manifest(path)
    fits_kubernetes(manifest)
    fits_configuration(manifest, values)
    fits_services(manifest)
    is_confined(manifest)


def fits_kubernetes(manifest):
    import kubernetes_validate

    oldest = re.search(r"(\d+\.\d+)", yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"])[1]
    newest = kubernetes_validate.latest_version()
    for one in manifest.all:
        # Its schema is that of the Prometheus operator.
        if one["kind"] == "ServiceMonitor":
            continue
        for version in (oldest, newest):
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except Exception as error:
                faults.append(f"{one['kind']} does not fit Kubernetes {version}: {error}")


def fits_configuration(manifest, values):
    count, own = values["replicas"], manifest.own
    name = manifest.set["metadata"]["name"]
    expect(manifest.set["spec"]["replicas"] == count, "replicas")
    expect(manifest.data["config.toml"].strip() == values["config"].strip(), "config is not passed on as it is")
    for file, text in values["files"].items():
        expect(manifest.data[file].strip() == text.strip(), f"{file} is not passed on as it is")
    expect(own.get("shard", {}).get("of") == (f"auto/{count}" if count > 1 else None), "shard.of")
    for ordinal in range(count):
        pod = f"{name}-{ordinal}.{manifest.set['spec']['serviceName']}"
        expect(pod in own["api"]["hosts"], f"{pod} is not in api.hosts")
        if count > 1:
            host = own["shard"]["url"].replace("{ordinal}", str(ordinal)).split("/")[2].split(":")[0]
            expect(host in own["api"]["hosts"], f"{host} is not in api.hosts")
            if not values["shard"]["url"]:
                expect(host.startswith(f"{pod}."), f"{host} is not the name of a pod")
    store = pathlib.Path(own["store"]["path"])
    expect(pathlib.Path(manifest.mounts["store"]["mountPath"]) in store.parents, "store.path is not in the volume")
    listens = {port["name"]: port["containerPort"] for port in manifest.container["ports"]}
    for key, port in (("listen", "api"), ("probe_listen", "probes")):
        expect(own["api"][key] == f"0.0.0.0:{listens[port]}", f"api.{key}")
    for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        get = manifest.container[f"{probe}Probe"]["httpGet"]
        expect(get == {"path": path, "port": "probes"}, f"{probe}: {get}")


def fits_services(manifest):
    pod = manifest.set["spec"]["template"]
    selectors = [one["spec"]["selector"] for one in manifest.kind("Service")]
    selectors += [manifest.set["spec"]["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in manifest.kind("PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in manifest.kind("NetworkPolicy")]
    for labels in selectors:
        expect(selects(labels, pod), f"{labels} selects no pod")
    ports = {one["name"] for one in manifest.container["ports"]}
    for service in manifest.kind("Service"):
        for port in service["spec"]["ports"]:
            expect(port["targetPort"] in ports, f"{port} is not a port of the container")
    headless = [one for one in manifest.kind("Service") if one["spec"].get("clusterIP") == "None"]
    expect([one["metadata"]["name"] for one in headless] == [manifest.set["spec"]["serviceName"]], "serviceName")
    expect(headless[0]["spec"].get("publishNotReadyAddresses"), "shards that start have no name")
    for monitor in manifest.kind("ServiceMonitor"):
        found = [one for one in manifest.kind("Service") if selects(monitor["spec"]["selector"]["matchLabels"], one)]
        expect(found == headless, "the ServiceMonitor selects another service than that of the shards")
        expect(monitor["spec"]["endpoints"][0]["port"] in {one["name"] for one in headless[0]["spec"]["ports"]}, "port")


def is_confined(manifest):
    pod, container = manifest.pod, manifest.container
    context = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
    expect(context.items() <= pod["securityContext"].items(), "the user")
    expect(pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, "seccomp")
    expect(pod["automountServiceAccountToken"] is False, "a token of the service account is mounted")
    confined = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    expect(container["securityContext"] == confined, "the container")
    # The daemon exits after 10 s at most.
    expect(pod["terminationGracePeriodSeconds"] > 10, "the time to stop")
    claims = {one["metadata"]["name"] for one in manifest.set["spec"]["volumeClaimTemplates"]}
    expect(set(manifest.mounts) == set(manifest.volumes) | claims, "volumes and mounts differ")
    writable = {name for name, one in manifest.mounts.items() if not one.get("readOnly")}
    expect(writable == {"store", "socket"}, f"writable: {writable}")
    secrets = [name for name, one in manifest.volumes.items() if "secret" in one]
    for name in secrets:
        expect(manifest.volumes[name]["secret"]["defaultMode"] == 0o400, f"the mode of {name}")
    folders = [manifest.mounts[name]["mountPath"] for name in secrets]
    for folder in folders:
        expect(folder.startswith("/run/secrets/"), f"{folder} is not below /run/secrets")
    for file in manifest.secret_files():
        expect(os.path.dirname(file) in folders, f"{file} is in no secret that is mounted")


def mount(manifest, root):
    """Each volume is a directory with its name, each file a link to a link, as a kubelet writes them."""

    def write(folder, file, content, mode):
        data = folder / "..2026_01_01"
        path = data / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)
        os.chown(path, 0, USER)
        if not (folder / "..data").is_symlink():
            (folder / "..data").symlink_to(data.name)
        top = pathlib.Path(file).parts[0]
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(pathlib.Path("..data") / top)

    for name, volume in manifest.volumes.items():
        folder = root / name
        folder.mkdir(parents=True)
        if "configMap" in volume:
            for item in volume["configMap"]["items"]:
                write(folder, item["path"], manifest.data[item["key"]], 0o644)
        if "secret" in volume:
            place = manifest.mounts[name]["mountPath"]
            for file in manifest.secret_files():
                if os.path.dirname(file) == place:
                    # Of a volume with fsGroup, files get the group and may be read by it.
                    mode = volume["secret"]["defaultMode"] | 0o440
                    write(folder, os.path.basename(file), f"a secret of {place} for the test", mode)
        os.chown(folder, 0, USER)
        folder.chmod(0o3777 if "emptyDir" in volume else 0o3755)


match sys.argv[1:]:
    case ["values"]:
        check_values()
    case ["refused"]:
        print(*map(json.dumps, WRONG), sep="\n")
    case ["rendered", values, manifest]:
        check_rendered(merged(defaults(), yaml.safe_load(pathlib.Path(values).read_text())), manifest)
    case ["mount", manifest, directory]:
        mount(Manifest(manifest), pathlib.Path(directory))
    case ["files", manifest]:
        print(*Manifest(manifest).secret_files(), sep="\n")
    case _:
        sys.exit(__doc__)
if faults:
    sys.exit("\n".join(faults))
