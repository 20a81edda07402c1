#!/usr/bin/env python3
"""Measures the blog of a sandbox host beside two others that run on the same host at the same time.

- limit: the same nginx with the same page as a static file, plain or compressed beforehand, and no log.
- tutorial: a blog as tutorials write it (tutorial/app.py) with the same posts in the same Postgres.

wrk runs in the host's network namespace: a measurement through the published port would measure docker-proxy.
The rounds alternate between all of them, and medians count, so other work on the machine changes the ratios
little. This program does not fail if the blog is slow; app/bench/posts.py does, if many posts make it slow.
"""

import argparse
import json
import re
import secrets
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
CONNECTIONS = 30
PLACE = "/var/tmp/slipway-bench"  # the directory on the host; docker cp cannot write to the tmpfs /run
LIMIT, TUTORIAL, TUTORIAL_NGINX = "slipway-bench-limit", "slipway-bench-tutorial", "slipway-bench-nginx"
LIMIT_PORT, TUTORIAL_PORT = 8090, 8101
UNIT_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}
INSTALL = "{ apt-get update -qq && apt-get install -qq -y wrk curl; } >/dev/null"
# nginx.conf of the two other servers: the first lines are those of roles/images/files/nginx/nginx.conf.
NGINX = """
pid /tmp/nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    sendfile off;
    proxy_temp_path /tmp/proxy;
    client_body_temp_path /tmp/body;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server {{
        listen {port};
        {rest}
    }}
}}
"""
POSTS = """
    SELECT json_build_object(
        'title', title, 'summary', summary, 'body', body_html, 'created_at', published_at,
        'comments', (SELECT coalesce(json_agg(body), '[]') FROM comment WHERE post_id = post.id)
    ) FROM post WHERE published_at <= now() ORDER BY published_at
"""
CLEAN = f"""
    docker rm --force {LIMIT} {TUTORIAL} {TUTORIAL_NGINX} >/dev/null 2>&1 || true
    docker exec slipway-db-1 psql -Xq -U postgres -c 'DROP DATABASE IF EXISTS bench WITH (FORCE)' \
        -c 'DROP ROLE IF EXISTS bench'
    rm -rf {PLACE}
"""


@dataclass(frozen=True)
class Target:
    """A page to request: its address, its headers, and the containers whose time counts."""

    url: str
    headers: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()


class Bench:
    """A sandbox host, with the two other servers while it is used as a context manager."""

    def __init__(self, container):
        self.container = container
        self.run(f"command -v wrk >/dev/null && command -v curl >/dev/null || {INSTALL}")
        self.config = json.loads(self.run("cat /opt/slipway/stack.json"))
        self.admin = json.loads(self.run("cat /opt/slipway/release.json"))["admin_email"]
        name, port = self.config["host"].partition(":")[0], self.config["public"].partition(":")[2]
        # wrk sends the name in the URL as SNI, so the host must resolve its own name.
        self.run(f"getent hosts {name} >/dev/null || echo 127.0.0.1 {name} >> /etc/hosts")
        self.site = f"{'https' if self.config['tls'] else 'http'}://{name}:{port}"
        self.host_header = f"Host: {self.config['host']}"
        [self.slot] = self.run("docker ps --format '{{.Names}}' --filter name=slipway-flask_blog").split()

    def run(self, script, given=None):
        """Run a shell script on the host and return its output. Exit with its error if it fails."""
        command = ["docker", "exec", "--interactive", self.container, "sh", "-euc", script]
        done = subprocess.run(command, input=given, capture_output=True, text=True)
        if done.returncode != 0:
            reason = done.stderr.strip() or done.stdout.strip()
            sys.exit(f"bench: on {self.container}: {reason}\nIs it up? Try `make up`.")
        return done.stdout

    def address(self, container):
        """Return the IPv4 address of a container."""
        addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        return self.run(f"docker inspect --format '{addresses}' {container}").split()[0]

    def __enter__(self):
        self.run(CLEAN)
        return self

    def __exit__(self, *_exception):
        self.run(CLEAN)

    def start(self):
        """Start the two other servers."""
        self.run(f"mkdir -p {PLACE}/limit {PLACE}/nginx")
        subprocess.run(["docker", "cp", "-q", HERE / "tutorial", f"{self.container}:{PLACE}"], check=True)
        self.page_bytes = len(
            self.run(
                f"curl -fsSk -H '{self.host_header}' {self.site}/ | tee {PLACE}/limit/index.html"
            ).encode()
        )
        self.run(f"gzip --keep -6 {PLACE}/limit/index.html")
        self.start_nginx(LIMIT, "nginx", "limit", LIMIT_PORT, "root /bench; gzip_static on;")
        self.start_tutorial()
        proxy = "location / { proxy_pass http://127.0.0.1:8100; }"
        self.start_nginx(TUTORIAL_NGINX, "db", "nginx", TUTORIAL_PORT, proxy)

    def start_nginx(self, name, network_of, directory, port, rest):
        """Start another nginx with the image and the number of workers of the blog's own."""
        self.run(f"cat > {PLACE}/{directory}/nginx.conf", given=NGINX.format(port=port, rest=rest))
        self.run(f"""
            image=$(docker inspect --format '{{{{.Image}}}}' slipway-nginx-1)
            workers=$(docker inspect --format '{{{{join .Config.Cmd " "}}}}' slipway-nginx-1 \
                | grep -o 'worker_processes [0-9]*')
            docker run --detach --name {name} --network container:slipway-{network_of}-1 \
                --read-only --tmpfs /tmp --volume {PLACE}/{directory}:/bench:ro "$image" \
                nginx -c /bench/nginx.conf -g "daemon off; $workers;" >/dev/null
        """)

    def start_tutorial(self):
        """Create the tutorial's database with the blog's posts, and start its app."""
        self.password, key = secrets.token_hex(), secrets.token_hex()
        self.run(f"""
            docker exec slipway-db-1 psql -Xq -U postgres \
                -c "CREATE ROLE bench LOGIN PASSWORD '{self.password}'" -c 'CREATE DATABASE bench OWNER bench'
            docker exec slipway-db-1 psql -XAt -U postgres -d blog -c "{POSTS}" > {PLACE}/posts
            image=$(docker inspect --format '{{{{.Image}}}}' {self.slot})
            docker create --interactive --name {TUTORIAL} --network container:slipway-db-1 --read-only \
                --tmpfs /tmp --volume {PLACE}/tutorial:/tutorial:ro --workdir /tutorial \
                --env HOME=/tmp --env FLASK_APP=app --env PASSWORD={self.password} --env SECRET_KEY={key} \
                --env DATABASE_URL=postgresql+psycopg2://bench:{self.password}@127.0.0.1/bench \
                "$image" gunicorn --bind 127.0.0.1:8100 app:app >/dev/null
            docker start {TUTORIAL} >/dev/null
            docker exec --interactive {TUTORIAL} flask fill < {PLACE}/posts
            until docker exec {TUTORIAL} python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:8100/")'
            do sleep 0.2; done
        """)

    def cookie(self, site, fields, *headers):
        """Sign in at a site, and return the header with the session's cookie."""
        options = " ".join(f"-H '{header}'" for header in (*headers, f"Referer: {self.url}/"))
        data = " ".join(f"--data-urlencode '{name}={value}'" for name, value in fields.items())
        jar = f"{PLACE}/jar"
        curl = f"curl -sSk -o {PLACE}/answer -b {jar} -c {jar} {options}"
        self.run(f"""
            rm -f {jar}; touch {jar}
            {curl} {site}/login
            token=$(sed -n 's/.*name="csrf_token"[^>]*value="\\([^"]*\\)".*/\\1/p' {PLACE}/answer | head -1)
            {curl} {data} --data-urlencode "csrf_token=$token" {site}/login
        """)
        rows = [line.removeprefix("#HttpOnly_").split("\t") for line in self.run(f"cat {jar}").splitlines()]
        pairs = [f"{row[5]}={row[6]}" for row in rows if len(row) == 7 and "session" in row[5]]
        if not pairs:
            sys.exit(f"bench: the sign-in at {site} failed.")
        return f"Cookie: {'; '.join(pairs)}"

    @property
    def url(self):
        """The blog's address as browsers have it."""
        return f"{self.site.partition(':')[0]}://{self.config['host']}"

    def targets(self):
        """Return what is measured, by name."""
        limit = f"http://{self.address('slipway-nginx-1')}:{LIMIT_PORT}/"
        tutorial = f"http://{self.address('slipway-db-1')}:{TUTORIAL_PORT}"
        password = self.run("cat /etc/slipway/secrets/admin_password").strip()
        signed_in = self.cookie(self.site, {"email": self.admin, "password": password}, self.host_header)
        student = self.cookie(tutorial, {"name": "bench", "password": self.password})
        post = re.search(r'href="(/posts/[^"/]+)"', self.run(f"cat {PLACE}/limit/index.html"))[1]
        host, gzip = self.host_header, "Accept-Encoding: gzip"
        ours = ("slipway-nginx-1", self.slot, "slipway-db-1")
        theirs = (TUTORIAL_NGINX, TUTORIAL, "slipway-db-1")
        gunicorn = f"http://{self.address(self.slot)}:8000"
        proxied = f"X-Forwarded-Proto: {self.site.partition(':')[0]}"
        return {
            "limit": Target(limit, (), (LIMIT,)),
            "limit_gzip": Target(limit, (gzip,), (LIMIT,)),
            "home": Target(f"{self.site}/", (host,), ours),
            "home_gzip": Target(f"{self.site}/", (host, gzip), ours),
            "home_foreign_cookie": Target(f"{self.site}/", (host, "Cookie: _ga=GA1.2.3"), ours),
            "search": Target(f"{self.site}/search?q=the", (host,), ours),
            "signed_in": Target(f"{self.site}/", (host, signed_in), ours),
            "post_dynamic": Target(f"{self.site}{post}", (host, signed_in), ours),
            "gunicorn": Target(f"{gunicorn}/", (host, signed_in, proxied), (self.slot, "slipway-db-1")),
            "tutorial": Target(f"{tutorial}/", (student,), theirs),
            "tutorial_post": Target(f"{tutorial}/posts/1", (student,), theirs),
        }

    def used(self, containers):
        """Return the seconds of CPU time that containers have used, by container."""
        stats = "curl -sS --unix-socket /var/run/docker.sock 'http://host/containers/{}/stats?stream=false&one-shot=true'"
        answers = [json.loads(self.run(stats.format(one))) for one in containers]
        return {
            one: answer["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
            for one, answer in zip(containers, answers, strict=True)
        }

    def measure(self, target, seconds):
        """Request a page for some seconds; return the figures."""
        headers = " ".join(f"-H '{header}'" for header in target.headers)
        before = self.used(target.containers)
        output = self.run(f"wrk -t2 -c{CONNECTIONS} -d{seconds}s --latency {headers} '{target.url}'")
        after = self.used(target.containers)
        figures = parse(output)
        spent = sum(after.values()) - sum(before.values())
        return figures | {"cpu_ms": spent * 1000 / max(1, figures["requests"])}


def parse(output):
    """Return the figures in the output of `wrk --latency`; `failed` counts answers that are no page too."""

    def milliseconds(percent):
        number, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\b", output).groups()
        return float(number) * UNIT_MS[unit]

    complaints = " ".join(re.findall(r"Non-2xx.*|Socket errors.*", output)).replace("Non-2xx or 3xx", "")
    return {
        "requests": int(re.search(r"(\d+) requests in", output)[1]),
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]),
        "p50_ms": milliseconds(50),
        "p99_ms": milliseconds(99),
        "failed": sum(map(int, re.findall(r"\d+", complaints))),
    }


RATIOS = {
    "home_over_limit": ("home", "limit"),
    "home_gzip_over_limit": ("home_gzip", "limit_gzip"),
    "foreign_cookie_over_home": ("home_foreign_cookie", "home"),
    "signed_in_over_tutorial": ("signed_in", "tutorial"),
    "post_dynamic_over_tutorial": ("post_dynamic", "tutorial_post"),
    "dynamic_over_gunicorn": ("signed_in", "gunicorn"),
}


def measure(container, seconds, rounds):
    """Measure all targets in turn, `rounds` times for some seconds; return the medians in one flat object."""
    with Bench(container) as bench:
        bench.start()
        targets = bench.targets()
        runs = {name: [] for name in targets}
        for turn in range(rounds):
            for name, target in targets.items():
                print(f"  {name}, run {turn + 1} of {rounds}, {seconds} s …", file=sys.stderr, flush=True)
                runs[name].append(bench.measure(target, seconds))
        results = {
            "tls": int(bench.config["tls"]),
            "page_bytes": bench.page_bytes,
            "connections": CONNECTIONS,
        }
    for name, measured in runs.items():
        for figure in ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms"):
            results[f"{name}_{figure}"] = round(statistics.median(run[figure] for run in measured), 3)
        results[f"{name}_failed"] = sum(run["failed"] for run in measured)
    for ratio, (one, other) in RATIOS.items():
        rates = [
            mine["requests_per_s"] / theirs["requests_per_s"]
            for mine, theirs in zip(runs[one], runs[other], strict=True)
        ]
        results[ratio] = round(statistics.median(rates), 4)
    return results


def table(results):
    """Return the results as lines of text."""
    lines = [f"{'':20}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms':>10}{'failed':>8}"]
    for name in [key.removesuffix("_failed") for key in results if key.endswith("_failed")]:
        rate, p50, p99, cpu, failed = (
            results[f"{name}_{figure}"]
            for figure in ("requests_per_s", "p50_ms", "p99_ms", "cpu_ms", "failed")
        )
        lines.append(f"{name:20}{rate:>12.1f}{p50:>10.2f}{p99:>10.2f}{cpu:>10.3f}{failed:>8}")
    lines += [f"{ratio:28} {results[ratio]}" for ratio in RATIOS]
    way = "HTTPS" if results["tls"] else "HTTP"
    return "\n".join(
        [
            *lines,
            f"The home page has {results['page_bytes']} bytes; {results['connections']} connections, {way}.",
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "container", nargs="?", default="slipway-sandbox", help="the host's container (default %(default)s)"
    )
    parser.add_argument("--seconds", type=int, default=4, help="length of each run (default %(default)s)")
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
