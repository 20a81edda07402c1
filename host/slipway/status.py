"""Status, history, logs and metrics of the blog, and drift from the ledger and the configuration."""

import datetime
import json
import re
import ssl
import time
from argparse import Namespace
from dataclasses import asdict
from typing import Any

from slipway import backups, drills, firewall, healing, restore, updates
from slipway.containers import config_hash
from slipway.ledger import Release
from slipway.lock import is_held, playbook_run
from slipway.recovery import inconsistencies
from slipway.release import image_in_service
from slipway.settings import DAY
from slipway.shell import Failure, printable
from slipway.stack import Stack


def drift(stack: Stack, current: Release | None) -> list[str]:
    """Return sentences about how the running containers differ from the ledger, compose.yml and slots.env."""
    found, inconsistent, active = [], inconsistencies(stack), stack.active()
    container = stack.container(active) if active else None
    if current and not container:
        return [f"No slot has a container: run `slipway release {current.image}`."]
    if not container or not active:
        return inconsistent
    if not current:
        found.append(
            f"The {active} slot runs {container['Image']}, but the ledger has no release: restore it from "
            f"{stack.ledger.former}, or the next release is its first."
        )
    elif container["Image"] != current.image:
        found.append(f"The {active} slot runs {container['Image']}, but the ledger has {current.image}.")
    if config_hash(container) != stack.wanted_hash(active, container["Image"]):
        found.append(f"The configuration of the {active} slot differs from compose.yml: run site.yml.")
    return found + inconsistent


def certificate(stack: Stack) -> dict[str, Any]:
    """Return the names, the issuer and the expiry of nginx's certificate."""
    file = stack.host.settings.certificate
    command = ("openssl", "x509", "-in", str(file), "-noout", "-issuer", "-enddate", "-ext", "subjectAltName")
    text = stack.host.run(*command, "-nameopt", "multiline")
    [end] = re.findall("notAfter=(.*)", text)
    # An authority need not have a common name.
    issuer = dict(re.findall(r"^ +(\w+) += (.*)$", text, re.MULTILINE))
    seconds = ssl.cert_time_to_seconds(end)
    return {
        "names": re.findall(r"DNS:([^,\s]+)", text),
        "issuer": issuer.get("commonName") or issuer.get("organizationName") or "an unnamed authority",
        "until": datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d"),
        "days_left": int((seconds - time.time()) // DAY),
    }


def command_status(stack: Stack, options: Namespace) -> int:
    current, active = stack.ledger.current(), stack.active()
    differences, shown = drift(stack, current), None
    if stack.config["tls"]:
        try:
            shown = certificate(stack)
        except Failure as failure:
            differences.append(f"The certificate cannot be read: run site.yml. {failure}")
    services = [json.loads(line) for line in stack.compose("ps", "--all", "--format", "json").splitlines()]
    status: dict[str, Any] = {
        "release": current,
        "active": active,
        "image": stack.running(active) if active else None,
        "containers": {s["Service"]: s.get("Health") or s["State"] for s in services},
        "under_way": stack.ledger.under_way(),
        "run": playbook_run(stack.host),
        "blocked": stack.ledger.all_blocked(),
        "maintenance": stack.maintenance_flag.exists(),
        "certificate": shown,
        "url": stack.config.get("url"),
        "firewall": firewall.problems(stack, services),
        "updates": updates.describe(stack),
        "backup": backups.sentences(stack),
        "drill": [sentence for sentence in (drills.sentence(stack),) if sentence],
        "restore": restore.sentences(stack),
        "healed": [asdict(entry) for entry in healing.read_record(stack)],
        "healer": healing.problems(stack),
        "failing": healing.failing(stack.host, services),
        "drift": differences,
        "disk_free_mb": stack.host.free(stack.state) // 10**6,
    }
    if options.json:
        print(json.dumps(status, default=Release.to_json))
    else:
        show(stack, status)
        for service in services:
            print(f"{service['Service']:<18} {service['State']:<10} {service.get('Health', '')}")
    return 0


def show(stack: Stack, status: dict[str, Any]) -> None:
    """Print the status from `command_status`, except the containers."""
    if current := status["release"]:
        source = f"{current.version or 'no version'}, {current.revision or 'no revision'}"
        print(f"release      {current.id} ({source})")
        print(f"slot         {status['active']}")
        print(f"image        {current.image}")
        print(f"since        {current.at} by {current.by}")
    else:
        print("No release is in service yet: run the playbook deploy.yml.")
    if status["under_way"]:
        entry = status["under_way"]
        how = "under way" if is_held(stack.host) else "interrupted"
        advice = "" if is_held(stack.host) else "; the next run finishes or undoes it"
        print(f"{how:<12} {entry.id} by {entry.by}: {entry.stage or 'starting'}{advice}")
    if run := status["run"]:
        print(f"run          {run['playbook']} by {run['by']} since {run['since']}")
    for entry in status["blocked"]:
        print(f"blocked      {entry.id} since {entry.blocked.since} by {entry.blocked.by}")
    if status["url"]:
        print(f"url          {status['url']}")
    print(f"maintenance  {'ON: readers get a page with status 503' if status['maintenance'] else 'off'}")
    print(f"disk         {status['disk_free_mb']} MB free")
    if status["certificate"]:
        shown = status["certificate"]
        print(f"tls          {', '.join(shown['names'])}")
        print(f"until        {shown['until']}, {shown['days_left']} days, by {shown['issuer']}")
    for sentence in status["firewall"]:
        print(f"firewall     {sentence}")
    for name in ("updates", "backup", "drill", "restore"):
        for sentence in status[name]:
            print(f"{name:<12} {sentence}")
    for entry in status["healed"]:
        print(f"healed       {entry['service']} {entry['at']} (unhealthy for {entry['seconds']} s)")
    for sentence in status["healer"]:
        print(f"healer       {sentence}")
    for text in status["failing"]:
        print(f"failing      {text}")
    for sentence in status["drift"] or ["none"]:
        print(f"drift        {sentence}")


def command_history(stack: Stack, options: Namespace) -> int:
    entries = stack.ledger.entries()
    entries = entries[max(0, len(entries) - max(0, options.lines)) :]
    if options.json:
        print(json.dumps([entry.to_json() for entry in entries]))
        return 0
    current = stack.ledger.current()
    for entry in entries:
        outcome = "serves" if entry == current else entry.outcome
        outcome = f"blocked since {entry.blocked.since}" if entry.blocked else outcome
        back = f" (instead of {entry.instead_of})" if entry.instead_of else ""
        print(f"{entry.id}  {entry.version or '-':<16} {outcome:<32} {entry.by}{back}")
        if entry.outcome == "failed":
            first, *others = (entry.reason or "no reason").splitlines()
            print(f"    {first}{' … ' + others[-1].strip() if others else ''}")
    return 0


def command_logs(stack: Stack, options: Namespace) -> int:
    slot = stack.active() or stack.routed()
    services = {"nginx": "nginx", "flask_blog": f"flask_blog_{slot}", "db": "db"}
    chosen = [services[options.service]] if options.service else list(services.values())
    command = [
        *("docker", "compose", "--project-directory", str(stack.directory), "--profile", slot),
        *("logs", "--tail", str(options.lines), *(["--follow"] if options.follow else [])),
        *chosen,
    ]
    return stack.host.show(*command)


def command_metrics(stack: Stack, options: Namespace) -> int:
    # First, because the blog may be down.
    print("".join(f"{line}\n" for line in backups.metrics(stack)), end="", flush=True)
    image_in_service(stack)
    slot = stack.active() or stack.routed()
    address = f"{stack.config['slots'][slot]}:{stack.host.settings.metrics_port}"
    status, body = stack.host.get(address, "/metrics", stack.config["host"])
    if status != 200:
        raise Failure(f"{address} answered {status or body} to /metrics: see `slipway logs flask_blog`.")
    print(printable(body), end="")
    return 0
