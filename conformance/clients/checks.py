"""Checks a cluster with Python's `kubernetes` client, as programs written with it use it: one JSON line a check.

usage: checks.py KUBECONFIG IMAGE [FILTER]
"""

import json
import sys
import time
from datetime import datetime, timezone

import yaml
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import portforward, stream


class World:
    def __init__(self, kubeconfig, image):
        config.load_kube_config(config_file=kubeconfig)
        self.image = image
        self.core = client.CoreV1Api()
        self.apps = client.AppsV1Api()
        made = self.core.create_namespace({"metadata": {"generateName": "python-"}})
        self.namespace = made.metadata.name


def until(what, seconds, ready):
    """Waits for a state that others bring about."""
    deadline = time.monotonic() + seconds
    while not (answer := ready()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)
    return answer


def refused(status, reason, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as e:
        said = json.loads(e.body)["reason"]
        assert (e.status, said) == (status, reason), f"{e.status} {said}, not {status} {reason}"
    else:
        raise AssertionError(f"it should have been refused with {reason}")


def config_map(name, labels=None, data=None):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)


def typed(w):
    made = w.core.create_namespaced_config_map(w.namespace, config_map("typed", data={"a": "1"}))
    assert isinstance(made.metadata.creation_timestamp, datetime)
    assert abs((datetime.now(timezone.utc) - made.metadata.creation_timestamp).total_seconds()) < 60
    refused(409, "AlreadyExists", w.core.create_namespaced_config_map, w.namespace, config_map("typed"))
    made.data["b"] = "2"
    w.core.replace_namespaced_config_map("typed", w.namespace, made)
    refused(409, "Conflict", w.core.replace_namespaced_config_map, "typed", w.namespace, made)
    listed = w.core.list_namespaced_config_map(w.namespace, field_selector="metadata.name=typed").items
    assert [m.data for m in listed] == [{"a": "1", "b": "2"}]
    w.core.delete_namespaced_config_map("typed", w.namespace)
    refused(404, "NotFound", w.core.read_namespaced_config_map, "typed", w.namespace)


def patched(w):
    w.core.create_namespaced_config_map(w.namespace, config_map("patched", data={"a": "1"}))
    # A list is a JSON patch, an object a strategic merge patch: the client chooses the content type so.
    w.core.patch_namespaced_config_map("patched", w.namespace, [{"op": "add", "path": "/data/b", "value": "2"}])
    now = w.core.patch_namespaced_config_map("patched", w.namespace, {"data": {"a": None, "c": "3"}})
    assert now.data == {"b": "2", "c": "3"}, now.data


def chunked(w):
    for i in range(12):
        w.core.create_namespaced_config_map(w.namespace, config_map(f"chunk-{i:02}", {"made-by": "chunked"}))
    names, token = [], None
    while token != "":
        page = w.core.list_namespaced_config_map(w.namespace, label_selector="made-by=chunked", limit=5, _continue=token)
        names += [m.metadata.name for m in page.items]
        token = page.metadata._continue or ""
    assert names == [f"chunk-{i:02}" for i in range(12)], names
    w.core.delete_collection_namespaced_config_map(w.namespace, label_selector="made-by=chunked")


def watched(w):
    before = w.core.list_namespaced_config_map(w.namespace).metadata.resource_version
    w.core.create_namespaced_config_map(w.namespace, config_map("watched", {"made-by": "watched"}))
    w.core.patch_namespaced_config_map("watched", w.namespace, {"data": {"a": "1"}})
    w.core.delete_namespaced_config_map("watched", w.namespace)
    seen, watcher = [], watch.Watch()
    events = watcher.stream(
        w.core.list_namespaced_config_map, w.namespace, label_selector="made-by=watched",
        resource_version=before, timeout_seconds=20,
    )
    for event in events:
        seen.append(event["type"])
        if event["type"] == "DELETED":
            watcher.stop()
    assert seen == ["ADDED", "MODIFIED", "DELETED"], seen


def expired_watch(w):
    watcher = watch.Watch()
    try:
        for _ in watcher.stream(w.core.list_namespaced_config_map, w.namespace, resource_version="not-a-number", timeout_seconds=5):
            pass
    except ApiException as e:
        # Upstream's answer; older servers said 400.
        assert e.status in (400, 410, 500), e.status
    else:
        raise AssertionError("an invalid resourceVersion was taken")


def dynamic_client(w):
    api = dynamic.DynamicClient(client.ApiClient())
    maps = api.resources.get(api_version="v1", kind="ConfigMap")
    body = {"metadata": {"name": "dynamic", "labels": {"made-by": "dynamic"}}, "data": {"a": "1"}}
    made = maps.create(body=body, namespace=w.namespace)
    assert made.metadata.uid
    now = maps.patch(
        name="dynamic", namespace=w.namespace, body={"data": {"b": "2"}}, content_type="application/merge-patch+json"
    )
    assert now.data.to_dict() == {"a": "1", "b": "2"}
    assert len(maps.get(namespace=w.namespace, label_selector="made-by=dynamic").items) == 1
    maps.delete(name="dynamic", namespace=w.namespace)
    deployments = api.resources.get(api_version="apps/v1", kind="Deployment")
    assert "scale" in deployments.subresources


def server_side_apply(w):
    api = dynamic.DynamicClient(client.ApiClient())
    maps = api.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    made = maps.server_side_apply(body=body, namespace=w.namespace, name="applied", field_manager="python")
    assert [f.manager for f in made.metadata.managedFields] == ["python"]


def invalid(w):
    refused(422, "Invalid", w.core.create_namespaced_config_map, w.namespace, config_map("Not A Name"))
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}], "nonsense": 1}}
    refused(422, "Invalid", w.core.create_namespaced_pod, w.namespace, pod)
    service = {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "nonsense": 1}}
    refused(400, "BadRequest", w.core.create_namespaced_service, w.namespace, service, field_validation="Strict")


PAGE = """
apiVersion: v1
kind: Service
metadata: {name: page}
spec: {selector: {app: page}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: page}
spec:
  replicas: 2
  selector: {matchLabels: {app: page}}
  template:
    metadata: {labels: {app: page}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: IMAGE, command: [sleep, "100000"]}]
"""


def from_yaml(w):
    objects = list(yaml.safe_load_all(PAGE.replace("IMAGE", w.image)))
    until("the service account", 15, lambda: w.core.list_namespaced_service_account(w.namespace).items)
    utils.create_from_yaml(client.ApiClient(), yaml_objects=objects, namespace=w.namespace)
    until("two available replicas", 60, lambda: available(w) == 2)


def available(w):
    return w.apps.read_namespaced_deployment_status("page", w.namespace).status.available_replicas


def scaled(w):
    w.apps.patch_namespaced_deployment_scale("page", w.namespace, {"spec": {"replicas": 1}})
    until("one replica", 30, lambda: w.apps.read_namespaced_deployment("page", w.namespace).status.replicas == 1)
    w.apps.delete_namespaced_deployment("page", w.namespace, propagation_policy="Foreground")
    until("no pod left", 30, lambda: not w.core.list_namespaced_pod(w.namespace, label_selector="app=page").items)


SCRIPT = """mkdir -p /tmp/www && echo forwarded > /tmp/www/index.html
busybox httpd -p 8080 -h /tmp/www
i=0; while true; do echo line $i; i=$((i+1)); sleep 0.1; done"""


def pod_runs(w):
    container = client.V1Container(name="main", image=w.image, command=["sh", "-c", SCRIPT])
    spec = client.V1PodSpec(containers=[container], termination_grace_period_seconds=1)
    pod = client.V1Pod(metadata=client.V1ObjectMeta(name="streams"), spec=spec)
    w.core.create_namespaced_pod(w.namespace, pod)
    until("the pod to run", 60, lambda: w.core.read_namespaced_pod("streams", w.namespace).status.phase == "Running")


def executed(w):
    command = ["sh", "-c", "echo out; echo err >&2; exit 7"]
    answer = stream(
        w.core.connect_get_namespaced_pod_exec, "streams", w.namespace, command=command,
        stderr=True, stdin=False, stdout=True, tty=False, _preload_content=False,
    )
    answer.run_forever(timeout=20)
    got = (answer.read_stdout(), answer.read_stderr(), answer.returncode)
    assert got == ("out\n", "err\n", 7), got


def talked(w):
    shell = stream(
        w.core.connect_get_namespaced_pod_exec, "streams", w.namespace, command=["sh"],
        stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False,
    )
    shell.write_stdin("echo one\n")
    assert shell.readline_stdout(timeout=10) == "one"
    shell.write_stdin("echo two; exit 3\n")
    assert shell.readline_stdout(timeout=10) == "two"
    shell.run_forever(timeout=20)
    assert shell.returncode == 3, shell.returncode


def logged(w):
    # This client's own decoding of text answers gives the representation of bytes.
    def tail():
        answer = w.core.read_namespaced_pod_log("streams", w.namespace, tail_lines=2, _preload_content=False)
        return answer.data.decode()

    text = until("some lines", 20, tail)
    assert all(line.startswith("line ") for line in text.splitlines()), text
    lines, watcher = [], watch.Watch()
    for line in watcher.stream(w.core.read_namespaced_pod_log, name="streams", namespace=w.namespace):
        lines.append(line)
        if len(lines) == 20:
            watcher.stop()
    assert lines == [f"line {i}" for i in range(20)], lines


def forwarded(w):
    forward = portforward(w.core.connect_get_namespaced_pod_portforward, "streams", w.namespace, ports="8080")
    port = forward.socket(8080)
    port.setblocking(True)
    port.sendall(b"GET / HTTP/1.0\r\nHost: pod\r\n\r\n")
    answer = b""
    while part := port.recv(4096):
        answer += part
    assert answer.endswith(b"forwarded\n"), (answer, forward.error(8080))


def elected(w):
    def candidate(name):
        lock = ConfigMapLock("leader", w.namespace, name)
        settings = electionconfig.Config(lock, 5, 4, 1, onstarted_leading=print, onstopped_leading=None)
        return leaderelection.LeaderElection(settings)

    mine, other = candidate("mine"), candidate("other")
    assert mine.try_acquire_or_renew(), "the lock was not acquired"
    assert not other.try_acquire_or_renew(), "two hold the lock"
    assert mine.try_acquire_or_renew(), "the lock was not renewed"


def versions(w):
    version = client.VersionApi().get_code()
    assert (version.major, version.minor) == ("1", "36"), version
    groups = {g.name for g in client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "rbac.authorization.k8s.io", "coordination.k8s.io"} <= groups, groups



CHECKS = [
    ("versions and groups", versions),
    ("typed: create, list, replace, delete; conflicts", typed),
    ("patch: JSON and strategic merge", patched),
    ("list in chunks", chunked),
    ("watch: added, modified, deleted", watched),
    ("watch: a bad resourceVersion is refused", expired_watch),
    ("dynamic client", dynamic_client),
    ("server-side apply by the dynamic client", server_side_apply),
    ("invalid objects are refused with reasons", invalid),
    ("leader election by a ConfigMap", elected),
    ("utils.create_from_yaml: a Deployment becomes available", from_yaml),
    ("scale, and delete in the foreground", scaled),
    ("pod: runs", pod_runs),
    ("exec: output, errors, exit code", executed),
    ("exec: a conversation with a shell", talked),
    ("logs, and logs that follow", logged),
    ("port-forward", forwarded),
]


def judged(name, check, w):
    begun, outcome = time.monotonic(), {"check": name, "outcome": "ok"}
    try:
        check(w)
    except Exception as e:  # a failing check must not end the others
        said = f"{e.status} {e.body}" if isinstance(e, ApiException) else str(e)
        outcome |= {"outcome": "failed", "error": f"{type(e).__name__}: {said}"}
    return outcome | {"seconds": time.monotonic() - begun}


def main(kubeconfig, image, name=""):
    w = World(kubeconfig, image)
    try:
        for title, check in CHECKS:
            if name in title:
                print(json.dumps(judged(title, check, w)), flush=True)
    finally:
        w.core.delete_namespace(w.namespace)


if __name__ == "__main__":
    main(*sys.argv[1:])
