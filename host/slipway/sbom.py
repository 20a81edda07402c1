"""The lists of the images' packages (SBOM), in CycloneDX format."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from slipway.files import write


def set_versions(path: Path, installed: Mapping[str, str]) -> None:
    """Write the present versions of Debian's packages to an SBOM.

    The references between its components stay as they are.

    Args:
        path: the file.
        installed: the version of each package by its name.
    """
    content = json.loads(path.read_text())
    for component in content.get("components", []):
        name, former = component.get("name"), component.get("version")
        new = installed.get(name, former)
        if component.get("purl", "").startswith("pkg:deb/") and former and new != former:
            change_version(component, former, new)
    known = {component.get("name") for component in content.get("components", [])}
    content.setdefault("components", []).extend(
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{in_url(version)}",
        }
        for name, version in installed.items()
        if name not in known
    )
    write(path, json.dumps(content))


def change_version(component: dict[str, Any], former: str, new: str) -> None:
    """Replace the version of a component, also in its identifiers, which escape some characters."""
    component["version"] = new
    component["purl"] = component["purl"].replace(in_url(former), in_url(new))
    names = [item for item in component.get("properties", []) if item.get("name") == "syft:cpe23"]
    for item, key in ((component, "cpe"), *((item, "value") for item in names)):
        if key in item:
            item[key] = item[key].replace(in_cpe(former), in_cpe(new))


def in_url(version: str) -> str:
    """Return a version as in a package URL: https://github.com/package-url/purl-spec."""
    return quote(version, safe=":~")


def in_cpe(version: str) -> str:
    """Return a version as in a name of the Common Platform Enumeration 2.3 (NISTIR 7695)."""
    return re.sub(r"[^\w.-]", r"\\\g<0>", version)
