"""Changes of nginx in which no reader loses a request.

`reload` makes nginx read its configuration and certificate again. `apply` makes nginx match compose.yml and
its files: it does nothing, reloads nginx or replaces its container.

Both end nginx processes and the connections that readers keep open, which loses a request that arrives at
that moment. So nginx is drained first: it closes each connection itself, with a response that announces the
close. While a container is replaced, a temporary nginx gets every new connection. Changes run in their own
systemd unit and under the host's lock. If the program is killed, the old container or the temporary nginx
serves, and the next run finishes the change. The host runs `apply` once at boot.
"""

import contextlib
import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from slipway import containers
from slipway.containers import Inspected, compose
from slipway.host import Host, wait_until
from slipway.lock import lock
from slipway.settings import load
from slipway.shell import Failure
from slipway.startup import database_changes, is_running
from slipway.unit import exec_in_unit

# The service of the temporary nginx, and its name in the previous version.
TEMPORARY, FORMER_TEMPORARY = "nginx_temporary", "nginx_stand_in"
TABLE = "inet slipway_nginx"
# `delete table` fails if the table is missing, so declare it first.
NO_REDIRECT = f"table {TABLE}\ndelete table {TABLE}\n"


def running(host: Host, service: str) -> "Container | None":
    """Return the service's container if it runs, else None; a restarting container does not run."""
    found = containers.of_service(host, service, "--filter=status=running")[:1]
    return next((Container(host, inspected) for inspected in containers.inspect(host, *found)), None)


def require(host: Host, service: str) -> "Container":
    """Return the service's container; raise Failure if none runs."""
    container = running(host, service)
    if not container:
        raise Failure(f"{service} does not run: start it with `docker compose up -d` in /opt/slipway.")
    return container


class Container:
    """A running nginx container, from its `docker inspect` output."""

    def __init__(self, host: Host, inspected: Inspected) -> None:
        self.host = host
        self.id: str = inspected["Id"]
        self.pid = str(inspected["State"]["Pid"])
        self.hash = containers.config_hash(inspected)
        self.mounts = {mount["Destination"]: Path(mount["Source"]) for mount in inspected["Mounts"]}
        # Each container checks for the drain flag whose file name contains the container's host name.
        self.flag = self.mounts["/run/slot"] / f"drain-{inspected['Config']['Hostname']}"
        self.published = {
            (*port.split("/"), binding["HostPort"])
            for port, bindings in inspected["NetworkSettings"]["Ports"].items()
            for binding in bindings or []
        }
        # Without port 443, TLS may end at a proxy in front of nginx, so the URL may still have https.
        self.port = 443 if ("443", "tcp") in {port[:2] for port in self.published} else 80
        # The engine forwards published ports to these addresses. Without IPv6, the second is empty.
        edge = inspected["NetworkSettings"]["Networks"]["slipway_edge"]
        self.addresses = {"ipv4": edge["IPAddress"], "ipv6": edge["GlobalIPv6Address"]}

    def connections(self) -> set[str]:
        """Return the remote addresses of readers' connections, except those that nginx has closed."""
        command = ("nsenter", "--net", "--target", self.pid, "ss", "--no-header", "--numeric", "--tcp")
        state = ("state", "connected", "exclude", "time-wait", "exclude", "fin-wait-2")
        lines = self.host.run(*command, *state, "( sport = :80 or sport = :443 )").splitlines()
        return {line.split()[-1] for line in lines}

    def drain(self) -> None:
        """Set the drain flag and keep it; wait up to idle_seconds for open connections to be closed."""
        self.flag.touch()
        old = self.connections()
        wait_until(lambda: not old & self.connections(), self.host.settings.idle_seconds)

    def forget(self) -> None:
        """Remove the container's closed connections from the kernel's table; the container is about to stop.

        When a container stops, the engine removes its connections from the table: it lists them, and then
        removes each by the address and port of its client. If a client used the same port again meanwhile,
        the engine removes that new connection, which nginx's replacement already serves.
        """
        for family, address in self.addresses.items():
            if not address:
                continue
            where = ("--proto", "tcp", "--family", family, "--reply-src", address)
            for state in ("TIME_WAIT", "CLOSE"):
                # The exit status is 1 if there are none. A host of a former version may lack the program.
                with contextlib.suppress(Failure):
                    self.host.output("conntrack", "--delete", "--state", state, *where)

    def workers(self) -> set[str]:
        """Return the ids of workers that accept connections; others have another process title."""
        return self.host.children(self.pid, "nginx: worker process")

    def is_current(self) -> bool:
        """Tell whether all workers started after the last change to the configuration and the certificate."""
        read = [self.mounts[at] for at in ("/etc/nginx/conf.d", "/etc/slipway/tls") if at in self.mounts]
        changed = max(path.stat().st_ctime for where in read for path in (where, *where.iterdir()))
        return all(self.host.started(pid) > changed for pid in self.workers())

    def is_healthy(self) -> bool:
        """Tell whether the engine's last health check passed; it runs every five seconds."""
        status = self.host.run("docker", "inspect", "--format={{.State.Health.Status}}", self.id)
        return status.strip() == "healthy"

    def answers(self, url: str, like: "Container") -> bool:
        """Tell whether url answers over IPv4 and IPv6 with 200, or with the status that `like` gives.

        The blog may be down, for maintenance or before its first release. So a status that `like` gives too
        is enough, and any status is enough if `like` does not answer.
        """

        def is_fine(family: str) -> bool:
            got = self.status(family, url)
            return got == 200 or (got is not None and like.status(family, url) in (got, None))

        return all(is_fine(family) for family, address in self.addresses.items() if address)

    def status(self, family: str, url: str) -> int | None:
        """Return the HTTP status of url at the container's address of a family; None without an answer."""
        return status(self.host, self.addresses[family], self.port, url)


def status(host: Host, address: str, port: int, url: str) -> int | None:
    """Return the HTTP status of url, requested at a container's address; None without an answer."""
    at = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return host.get(at, "/", urlsplit(url).netloc, timeout=10, tls=port == 443)[0]


def public_url(host: Host) -> str:
    """Return the blog's public URL."""
    config = json.loads(compose(host, "config", "--format", "json"))
    return str(config["x-blog-environment"]["BASE_URL"])


def up(host: Host, service: str) -> None:
    """Start a service as compose.yml defines it, and wait until it is healthy."""
    compose(
        host,
        "up",
        "--detach",
        "--no-deps",
        "--wait",
        f"--wait-timeout={host.settings.start_seconds}",
        service,
    )


def start(host: Host, service: str, serving: Container) -> Container:
    """Start a service; return its container once it is healthy and answers as well as serving does.

    Args:
        service: the service.
        serving: the container that serves readers now.

    Raises:
        Failure: with the reason and the service's last log lines.
    """
    url = public_url(host)
    with log_on_failure(host, service):
        up(host, service)
        started = require(host, service)
        if not wait_until(lambda: started.answers(url, like=serving), host.settings.start_seconds):
            raise Failure(f"{service} is healthy but does not answer requests for {url}.")
    return started


@contextlib.contextmanager
def log_on_failure(host: Host, service: str) -> Iterator[None]:
    """Add the state and the last log lines of the service's containers to a Failure."""
    try:
        yield
    except Failure as failure:
        found = containers.inspect(host, *containers.of_service(host, service))
        messages = [str(failure), *(containers.state_and_log(host, container) for container in found)]
        raise Failure("\n".join(messages)) from None


def redirect(host: Host, nginx: Container, temporary: Container) -> None:
    """Redirect new connections to nginx's published ports to the temporary nginx; established ones stay.

    These rules run before Docker's own, and the first matching DNAT rule wins.
    """
    ipv4, ipv6 = temporary.addresses["ipv4"], temporary.addresses["ipv6"]
    to = {"ipv4": f"ip to {ipv4}", "ipv6": f"ip6 to [{ipv6}]"}
    rules = "".join(
        f"meta nfproto {family} fib daddr type local {protocol} dport {asked} dnat {to[family]}:{port}; "
        for port, protocol, asked in sorted(nginx.published)
        for family, address in temporary.addresses.items()
        if address
    )
    chains = "".join(
        f"chain {hook} {{ type nat hook {hook} priority -110; {rules}}}\n"
        for hook in ("prerouting", "output")
    )
    host.run("nft", "--file", "-", stdin=f"{NO_REDIRECT}table {TABLE} {{\n{chains}}}\n")


def switch_back(host: Host, nginx: Container) -> None:
    """Send readers to nginx again, and remove the temporary nginx once it is drained."""
    nginx.flag.unlink(missing_ok=True)
    host.run("nft", "--file", "-", stdin=NO_REDIRECT)
    if temporary := running_temporary(host):
        temporary.drain()
        temporary.forget()
        host.run("docker", "stop", f"--time={host.settings.stop_seconds}", temporary.id)
    remove_temporary(host)
    for flag in flags(nginx):
        flag.unlink()


def running_temporary(host: Host) -> Container | None:
    """Return the container of the temporary nginx if it runs, else None."""
    return running(host, TEMPORARY) or running(host, FORMER_TEMPORARY)


def temporary_containers(host: Host) -> list[str]:
    """Return the ids of the temporary nginx's containers, running or not, also of the previous version."""
    return containers.of_service(host, TEMPORARY) + containers.of_service(host, FORMER_TEMPORARY)


def remove_temporary(host: Host) -> None:
    """Remove the temporary nginx, whatever its state."""
    for container in temporary_containers(host):
        host.run("docker", "rm", "--force", container)


def flags(nginx: Container) -> list[Path]:
    """Return the existing drain flags, including those of removed containers."""
    return list(nginx.mounts["/run/slot"].glob("drain-*"))


def definitions(host: Host, text: str | None = None) -> dict[str, str]:
    """Return compose's hashes of the definitions of nginx and db, by service; text replaces compose.yml."""
    lines = compose(host, "config", "--hash=nginx,db", stdin=text).splitlines()
    return dict(line.split() for line in lines)


def task(host: Host, wanted: dict[str, str]) -> str:
    """Return the task that makes nginx match these definitions and its files, or "nothing"."""
    nginx = running(host, "nginx")
    if is_interrupted(host, nginx):
        return "recover"
    # If nginx does not run, `docker compose up` starts it with the new definition and files.
    if nginx and nginx.hash != wanted["nginx"]:
        return "replace"
    if nginx and not nginx.is_current():
        return "reload"
    return "nothing"


def is_finished(host: Host) -> bool:
    """Tell whether an earlier run finished `docker compose up` with the present compose.yml.

    Definitions of services do not cover networks and volumes, which a killed run may have left unchanged.
    """
    text = (host.settings.project / "compose.yml").read_bytes()
    try:
        known = load(host.settings.configuration)
    except Failure:
        return False
    return known.get("compose") == hashlib.sha256(text).hexdigest()


def is_up(host: Host, wanted: dict[str, str]) -> bool:
    """Tell whether nginx and the database run with these definitions and are healthy."""
    return all(is_as_defined(host, service, definition) for service, definition in wanted.items())


def is_as_defined(host: Host, service: str, definition: str) -> bool:
    """Tell whether a service has exactly one container, which has this definition and is healthy."""
    found = containers.inspect(host, *containers.of_service(host, service))
    return [is_running(one) for one in found] == [True] and containers.config_hash(found[0]) == definition


def is_interrupted(host: Host, nginx: Container | None) -> bool:
    """Tell whether a killed run left a redirect, a temporary nginx or a drain flag."""
    redirected = f"table {TABLE}" in host.run("nft", "list", "tables").splitlines()
    return redirected or bool(temporary_containers(host) or (nginx and flags(nginx)))


def recover(host: Host) -> None:
    """Finish a killed run: start nginx unless it already serves, and remove the temporary nginx."""
    nginx, temporary = running(host, "nginx"), running_temporary(host)
    if temporary and not (nginx and nginx.answers(public_url(host), like=temporary)):
        nginx = start(host, "nginx", serving=temporary)
    switch_back(host, nginx or start_after_power_loss(host))


def start_after_power_loss(host: Host) -> Container:
    """Start nginx on a host that booted without it: the engine does not restart the temporary nginx."""
    try:
        up(host, "nginx")
    except Failure as failure:
        if "port is already allocated" not in str(failure):
            raise
        # Engine bug (moby/libnetwork#1790): the engine keeps ports of a removed container allocated until it
        # restarts. Its restart does not stop the other containers.
        host.run("systemctl", "restart", "docker")
        with log_on_failure(host, "nginx"):
            up(host, "nginx")
    return require(host, "nginx")


def replace(host: Host) -> None:
    """Replace the running container with one that matches compose.yml."""
    nginx = require(host, "nginx")
    try:
        temporary = start(host, TEMPORARY, serving=nginx)
    except Failure as failure:
        remove_temporary(host)
        raise Failure(f"The new nginx does not work, so the old one serves as before. {failure}") from None
    redirect(host, nginx, temporary)
    nginx.drain()
    nginx.forget()
    try:
        replacement = start(host, "nginx", serving=temporary)
    except Failure as failure:
        raise Failure(f"A temporary nginx serves readers until site.yml is run again. {failure}") from None
    switch_back(host, replacement)


def reload(host: Host) -> None:
    """Make nginx read its configuration and certificate again."""
    nginx = require(host, "nginx")
    host.run("docker", "exec", nginx.id, "nginx", "-t", "-q")
    try:
        nginx.drain()
        before = nginx.workers()
        host.run("docker", "exec", nginx.id, "nginx", "-s", "reload")
        # The old workers accept connections until the new ones have started.
        if not wait_until(lambda: (now := nginx.workers()) and not now & before, host.settings.start_seconds):
            raise Failure("nginx started no workers with the new configuration: see `slipway logs nginx`.")
    finally:
        nginx.flag.unlink(missing_ok=True)
    # Wait for the next health check: a later `docker compose up` would fail on an old unhealthy result.
    if not wait_until(nginx.is_healthy, host.settings.start_seconds):
        raise Failure("nginx loaded the new configuration but is not healthy: see `slipway logs nginx`.")


TASKS: dict[str, Callable[[Host], None]] = {"recover": recover, "replace": replace, "reload": reload}


def apply(host: Host) -> list[str]:
    """Run each task that nginx needs, at most once; return the tasks that ran."""
    done: list[str] = []
    while (what := task(host, definitions(host))) not in ("nothing", *done):
        TASKS[what](host)
        done.append(what)
    return done


def command_apply(host: Host, options: Namespace) -> int:
    text = sys.stdin.read() if options.check else None
    wanted = definitions(host, text)
    up = is_up(host, wanted) and (options.check or is_finished(host))
    database = [] if up else database_changes(host, wanted["db"], text)
    if options.check:
        return report([task(host, wanted)], up, database)
    if task(host, wanted) == "nothing":
        return report([], up, database)
    if not options.in_unit:
        exec_in_unit("slipway-nginx", options.arguments)
    with lock(host, "a change of nginx", other="Another operation"):
        return report(apply(host), database=database)


def command_reload(host: Host, options: Namespace) -> int:
    if not options.in_unit:
        exec_in_unit("slipway-nginx", options.arguments)
    with lock(host, "a change of nginx", host.settings.lock_seconds, other="Another operation"):
        if is_interrupted(host, running(host, "nginx")):
            recover(host)
        reload(host)
    return report(["reload"])


def report(done: list[str], up: bool = False, database: Collection[str] = ()) -> int:
    """Print the tasks as one JSON object; return the exit status.

    Args:
        done: the tasks.
        up: whether `slipway up` has nothing to do.
        database: how `slipway up` would change the database.
    """
    changed = done not in ([], ["nothing"])
    print(json.dumps({"changed": changed, "done": done, "up": up, "database": list(database)}))
    return 0
