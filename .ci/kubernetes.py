"""Holds that the manifests fit together, which their schemas do not.

That is: what selects pods selects those of the Deployment or DaemonSet that it is, or whose
component it is labelled with, and no others; and every port that is named is one that they
open.
"""

import sys
import yaml

items = []
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        items += [(path, item) for item in yaml.safe_load_all(file) if item]


def of_kind(kind):
    return [(path, item) for path, item in items if item["kind"] == kind]


def selectors(item):
    """The selectors of an object that are for pods of its own namespace."""
    spec = item["spec"]
    if item["kind"] == "Service":
        return [spec["selector"]]
    found = [spec[key]["matchLabels"] for key in ("selector", "podSelector") if key in spec]
    pod = spec.get("template", {}).get("spec", {})
    spread = pod.get("topologySpreadConstraints", [])
    return found + [constraint["labelSelector"]["matchLabels"] for constraint in spread]


def named_ports(value, keys=("port", "targetPort")):
    """Every port below a value that is given by its name."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in keys and isinstance(below, str):
                yield below
            yield from named_ports(below, keys)
    elif isinstance(value, list):
        for below in value:
            yield from named_ports(below, keys)


def pods(item):
    """The labels of an object's pods."""
    return item["spec"]["template"]["metadata"]["labels"]


def ports_of(item):
    """The names of its pods' ports, also of sidecars, which are init containers."""
    pod = item["spec"]["template"]["spec"]
    containers = pod["containers"] + pod.get("initContainers", [])
    return {port["name"] for container in containers for port in container.get("ports", [])}


def component(item):
    return item["metadata"]["labels"]["app.kubernetes.io/component"]


answering = [item for kind in ("Deployment", "DaemonSet") for _, item in of_kind(kind)]
of_component = {component(item): item for item in answering}
[(_, migration)] = of_kind("Job")
others = pods(migration)
problems, selected, ports = [], 0, 0
for path, item in items:
    name = f"{path}: {item['kind']} {item['metadata']['name']}"
    # The migration is no such component: it selects nothing and opens nothing.
    own = of_component.get(component(item), migration)
    for selector in selectors(item):
        selected += 1
        chosen = [of for of in answering if selector.items() <= pods(of).items()]
        if chosen != [own] or selector.items() <= others.items():
            problems.append(f"{name} selects {selector}, and the pods are {pods(own)}")
    for port in named_ports(item["spec"]):
        ports += 1
        if port not in ports_of(own):
            problems.append(f"{name} names the port {port}, and the pods open {ports_of(own)}")
if len(of_component) < len(answering):
    problems.append(f"{len(answering)} objects have pods of {len(of_component)} components")
# Or else it would find nothing wrong for want of something to look at.
if selected < 8 or ports < 12:
    problems.append(f"{selected} selectors and {ports} ports are fewer than there were")
sys.exit("\n".join(problems) or None)
