"""A fake engine with containers that become unhealthy."""

import datetime
import json

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
# What the engine reports of a check of a container whose processes are stopped.
HUNG = {"ExitCode": -1, "Output": "Health check exceeded timeout (3s)"}


def shown(moment):
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


class Ward:
    """A fake engine with the health of containers, and a clock.

    Attributes:
        checks: the last health checks of each container that is not healthy, by service.
        restarted: the restarts as (service, seconds to stop).
        incurable: the services that stay unhealthy after a restart.
        frozen: the services whose processes are stopped.
        failing: the services whose last check failed, but that are not unhealthy yet.
    """

    def __init__(self, run):
        self.fallback, self.time, self.restarted = run, NOON, []
        self.checks, self.incurable, self.frozen, self.wrong = {}, set(), set(), {}
        self.failing = set()

    def fall_ill(self, service, check=HUNG, times=3):
        """Let a service's health checks fail; the last one began three seconds ago.

        One begins every eight seconds: the interval and the timeout of `x-patience` in compose.yml.j2.
        """
        ago = [self.time - datetime.timedelta(seconds=3 + 8 * turn) for turn in reversed(range(times))]
        self.checks[service] = [check | {"Start": at.isoformat()} for at in ago]

    def run(self, *command, **options):
        """Answer a command as docker does."""
        words = " ".join(command)
        if words.startswith("docker ps --quiet") and "health=unhealthy" in words:
            assert "label=com.docker.compose.project=slipway" in words
            return "".join(f"id-of-{service}\n" for service in self.checks)
        if words.startswith("docker ps --quiet") and words.endswith("service=db") and "db" in self.failing:
            return "id-of-db\n"
        if words == "docker inspect id-of-db" and "db" in self.failing:
            return json.dumps([{"State": {"Health": {"FailingStreak": 1}}}])
        if words.startswith("docker inspect id-of-"):
            return json.dumps([self.inspect(one.removeprefix("id-of-")) for one in command[2:]])
        if words.startswith("docker restart"):
            return self.restart(command[-1].removeprefix("id-of-"), command[2])
        return self.fallback(*command, **options)

    def inspect(self, service):
        """Return the `docker inspect` output of an unhealthy container."""
        return {
            "Id": f"id-of-{service}",
            "Config": {"Labels": {"com.docker.compose.service": service}},
            "State": {"Status": "running", "Pid": service, "Health": {"Log": self.checks[service]}},
        }

    def restart(self, service, time):
        if "restart" in self.wrong:
            raise self.wrong["restart"]
        self.restarted.append((service, int(time.removeprefix("--time="))))
        if service not in self.incurable:
            del self.checks[service]
        return ""

    def pass_by(self, **time):
        self.time += datetime.timedelta(**time)
