#!/usr/bin/env python3
"""Compares the home page of a sandbox host's blog with a static file of the same size from the same nginx.

wrk runs in the host's network namespace: a measurement through the published port would measure docker-proxy.
The figures depend on the machine, their ratio much less. This program does not fail if the blog is slow;
app/bench/posts.py fails if the blog is slow with many posts.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
CONNECTIONS = 30
STATIC = "/var/lib/slipway/www/static/bench.html"
# wrk sends the name in the URL as SNI, so the host must resolve its own name.
LEARN = "getent hosts {name} >/dev/null || echo 127.0.0.1 {name} >> /etc/hosts"
UNIT_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}


def on_host(container, script):
    """Run a shell script on the sandbox host and return its output. Exit with its error if it fails."""
    done = subprocess.run(["docker", "exec", container, "sh", "-euc", script], capture_output=True, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip() or done.stdout.strip()
        sys.exit(f"bench: on {container}: {reason}\nIs it up? Try `make up`.")
    return done.stdout


def address(config):
    """Return the URL of nginx on the host, without a path."""
    name, port = config["host"].partition(":")[0], config["public"].partition(":")[2]
    return f"{'https' if config['tls'] else 'http'}://{name}:{port}"


def parse(output):
    """Return (requests per second, p99 in ms, failed requests) from the output of `wrk --latency`."""
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", output).groups()
    complaints = " ".join(re.findall(r"Non-2xx.*|Socket errors.*", output)).replace("Non-2xx or 3xx", "")
    failed = sum(map(int, re.findall(r"\d+", complaints)))
    return float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]), float(number) * UNIT_MS[unit], failed


def measure(container, seconds, rounds):
    """Measure both pages in turn and return the medians as one flat object.

    Args:
        container: name of the sandbox host's container.
        seconds: length of each run.
        rounds: runs of each page.
    """
    install = "{ apt-get update -qq && apt-get install -qq -y wrk curl; } >/dev/null"
    on_host(container, f"command -v wrk >/dev/null || {install}")
    config = json.loads(on_host(container, "cat /opt/slipway/stack.json"))
    site, ask = address(config), f"-H 'Host: {config['host']}'"
    on_host(container, LEARN.format(name=config["host"].partition(":")[0]))
    size = len(on_host(container, f"curl -fsSk {ask} {site}/ | tee {STATIC}").encode())
    pages = {"home": "/", "static": "/static/bench.html"}
    runs = {name: [] for name in pages}
    try:
        for turn in range(rounds):
            for name, path in pages.items():
                print(f"  {name}, run {turn + 1} of {rounds}, {seconds} s …", file=sys.stderr, flush=True)
                wrk = f"wrk -t2 -c{CONNECTIONS} -d{seconds}s --latency {ask} {site}{path}"
                runs[name].append(parse(on_host(container, wrk)))
    finally:
        on_host(container, f"rm -f {STATIC}")
    results = {"tls": int(config["tls"]), "page_bytes": size, "connections": CONNECTIONS}
    for name, measured in runs.items():
        results[f"{name}_requests_per_s"] = round(statistics.median(run[0] for run in measured), 1)
        results[f"{name}_p99_ms"] = round(statistics.median(run[1] for run in measured), 2)
        results[f"{name}_failed"] = sum(run[2] for run in measured)
    results["home_over_static"] = round(results["home_requests_per_s"] / results["static_requests_per_s"], 4)
    return results


def table(results):
    """Return the results as lines of text."""
    lines = [f"{'':8}{'requests/s':>12}{'p99 ms':>10}{'failed':>8}"]
    for name in ("home", "static"):
        rate, p99, failed = (results[f"{name}_{figure}"] for figure in ("requests_per_s", "p99_ms", "failed"))
        lines.append(f"{name:8}{rate:>12.1f}{p99:>10.2f}{failed:>8}")
    way = "HTTPS" if results["tls"] else "HTTP"
    page = f"{results['page_bytes']} bytes, {results['connections']} connections, {way}"
    return "\n".join([*lines, f"home_over_static {results['home_over_static']} ({page})"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "container", nargs="?", default="slipway-sandbox", help="the host's container (default %(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=5, help="length of each run (default %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each page; medians count (default %(default)s)"
    )
    parser.add_argument("--show", action="store_true", help="print the last figures, without measuring")
    options = parser.parse_args()
    if not options.show:
        results = measure(options.container, options.seconds, options.rounds)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    elif not RESULTS.exists():
        sys.exit("bench: nothing was measured yet: run `make bench`.")
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
