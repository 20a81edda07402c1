"""A fake engine with pgBackRest, the archive of the database, and databases that are recovered from it."""

import datetime
import json
import os
import signal
import subprocess
from pathlib import Path

from ward import NOON, shown

from slipway.shell import CommandFailure

MOUNT = "/var/lib/postgresql/data"
GENERATIONS = "17"  # the directory in the volume that has the directories of databases
LAST = "00000001000000000000000B"  # the last archived segment
ROWS = {"post": 12, "comment": 30}
COMMANDS = ("info", "stanza-create", "stanza-upgrade", "check", "backup", "verify", "repo-ls", "repo-get")
WRITING = {"stanza-create", "stanza-upgrade", "check", "backup"}
BEFORE = "the database of before"
FIRST, SECOND = "restored database 1", "restored database 2"
# The file that marks the directory of a database that was not in service yet (generations.py).
MARKER = "slipway-restored"
RECOVERING = ("db_restore", "db_drill")
COPIES = ("db_upgrade", "db_rehearsal")
SERVICES = ("db", *RECOVERING, *COPIES, "flask_drill")
# The tables, sequences and indexes of a database, as upgrade.py reads them.
CONTENT = {"table public.post": "12 rows, digest 77", "sequence public.post_id_seq": "12"}
# What pgBackRest prints for each code of a stanza, and the whole output of a good verification.
MESSAGES = {
    0: "ok",
    1: "missing stanza path",
    2: "no valid backups",
    3: "missing stanza data",
    99: "other",
}
VERIFIED = "stanza: blog\nstatus: ok\n"


def failure(words="it failed", status=1):
    """Return the exception of a command that exits with a status and prints these words."""
    return CommandFailure(("docker", "compose", "pgbackrest"), status, words)


def once(error):
    """Return a function that raises an exception when it is first called."""
    errors = [error]

    def call():
        if errors:
            raise errors.pop()

    return call


def terminate():
    """Send SIGTERM to this process, as `systemctl stop` does."""
    os.kill(os.getpid(), signal.SIGTERM)


def backup(kind, at, label="", damaged=False, timeline=1, position="0/3000100", segment=""):
    """Return a backup as pgBackRest shows it."""
    stop, segment = int(at.timestamp()), segment or f"{timeline:08X}0000000000000003"
    return {
        "archive": {"start": segment, "stop": segment},
        "database": {"id": 1, "repo-key": 1},
        "error": damaged,
        "info": {
            "delta": 30_000_000,
            "repository": {"delta": 4_260_000, "delta-map": 1},
            "size": 31_400_000,
        },
        "label": label or f"{at:%Y%m%d-%H%M%S}{kind[0].upper()}",
        "lsn": {"start": "0/3000028", "stop": position},
        "timestamp": {"start": stop - 20, "stop": stop},
        "type": kind,
    }


def environment(major):
    """Return the environment of an image of the database."""
    return ["LANG=C.UTF-8", f"PGDATA={MOUNT}/{major}/a", f"PG_MAJOR={major}"]


def image_in(text):
    """Return the image in the compose.yml of a test: its last word."""
    return text.split()[-1]


class Vault:
    """A fake engine, with a clock.

    Attributes:
        events: what happened, in order, such as "backup full", "recover db_drill" or "stop db".
        wrong: what to do when an event happens: an exception to raise, or a function to call.
        containers: the states of containers by service.
        volumes: the volumes that drills made.
        created: how often the repository was created.
        started: the units that were started.
        backups: the backups in the repository.
        code: the code of the stanza, as `pgbackrest info` prints it.
        foreign: whether the repository has the backups of another database.
        damaged: whether the database has damaged pages.
        is_busy: whether a backup is under way.
        repository_message: why the repository cannot be used.
        verified: what `pgbackrest verify` prints.
        segments: the archived segments.
        archiver: the state of the archive, as the database tells it.
        rows: the numbers of rows in the database that runs.
        restored: the numbers of rows in a recovered database.
        histories: the content of the history file of each timeline but the first.
        targets: where each recovery stopped, as pgBackRest's options.
        position: how far a recovery has come.
        databases: the major version of each database that the repository has had; an upgrade adds one.
        former_files: paths of files in the archives of former databases.
        majors: the major version of each image of the database, by the image.
        others: the names of databases besides the blog's.
        running: the major version that the container of the database has.
        content: the content of each database that has one, by its service.
        copied: what a copy has instead of the content of the database in service, by its service.
    """

    def __init__(self, engine, place):
        self.engine, self.fallback, self.fallback_output = engine, engine.run, engine.output
        self.time, self.ticks = NOON, 0.0
        self.events, self.wrong = [], {}
        self.containers, self.volumes, self.started = {"db": "running"}, set(), []
        self.created, self.foreign, self.is_busy, self.repository_message = 0, False, False, "ok"
        self.code, self.verified, self.damaged, self.databases = 0, VERIFIED, False, ["17"]
        self.backups = [backup("full", self.ago(days=1)), backup("incr", self.ago(hours=1))]
        self.segments = ["00000001000000000000000A", LAST]
        self.histories = {}
        self.archiver = {"waiting": 0, "archived": self.ago(seconds=20).timestamp(), "failing": False}
        self.rows, self.restored, self.targets, self.position = dict(ROWS), dict(ROWS), [], "0/B000100"
        self.others, self.former_files = "", []
        self.majors, self.running = {}, GENERATIONS
        self.content, self.copied = {"db": CONTENT, "db_drill": CONTENT}, {}
        self.place = place
        self.live.mkdir(parents=True)
        (self.live / "name").write_text(BEFORE)

    @property
    def live(self):
        """The directory of the database in service, in its volume. The file `name` says which one it is."""
        return self.place / self.running / "a"

    @property
    def major(self):
        """The major version of the newest database in the repository."""
        return self.databases[-1]

    # --- The clock ------------------------------------------------------------------------------------------

    def ago(self, **time):
        return self.time - datetime.timedelta(**time)

    def monotonic(self):
        return self.ticks

    def sleep(self, seconds):
        self.ticks += seconds

    # --- What happened --------------------------------------------------------------------------------------

    def happen(self, event):
        """Record an event, and do what `wrong` has for it."""
        self.events.append(event)
        action = self.wrong.get(event)
        if isinstance(action, BaseException):
            raise action
        if action:
            action()

    def order(self, *events):
        """Return these events in the order in which they happened."""
        return [event for event in self.events if event in events]

    def serving(self):
        """Return which database is in service."""
        return (self.live / "name").read_text()

    def formers(self):
        """Return which databases are kept, oldest first."""
        paths = sorted(self.live.parent.glob("former-*"))
        return [(path / "name").read_text() for path in paths if not (path / MARKER).exists()]

    def keep(self, name, text=BEFORE, is_marked=False):
        """Create the directory of a database beside the one in service, and return it."""
        directory = self.live.with_name(name)
        directory.mkdir()
        (directory / "name").write_text(text)
        if is_marked:
            (directory / MARKER).touch()
        return directory

    def is_standby(self):
        """Tell whether the database in service would start as a standby."""
        return (self.live / "standby.signal").exists()

    def left(self):
        """Return the containers, the volumes and the directories that a restore or a drill left."""
        beside = [path for path in self.live.parent.iterdir() if path != self.live]
        directories = [path.name for path in beside if path.name == "restored" or (path / MARKER).exists()]
        if (self.engine.stack.in_service / "drill").exists():
            directories.append("drill")
        return sorted({*self.containers} - {"db"} | self.volumes | {*directories})

    # --- The engine -----------------------------------------------------------------------------------------

    def run(self, *command, **options):
        """Answer a command as docker, pgBackRest and the databases do."""
        words = " ".join(map(str, command))
        if command[:2] == ("docker", "compose"):
            # Another compose.yml on standard input is for the databases of an upgrade only.
            given = 2 if command[4:6] == ("--file", "-") and "--hash" not in command else 0
            answer = self.compose(command[4 + given :], words, **options)
            if answer is not None:
                return answer
        if words.startswith("docker ps --quiet"):
            service = words.rpartition("service=")[2]
            if service in SERVICES:
                states = {"running"} if "status=running" in words else {"running", "exited"}
                return f"id-{service}\n" if self.containers.get(service) in states else ""
        if words.startswith("docker inspect id-") and command[-1].removeprefix("id-") in SERVICES:
            return json.dumps([self.inspect(one.removeprefix("id-")) for one in command[2:]])
        if words.startswith("docker image inspect ") and command[-1] in self.majors:
            return json.dumps([{"Config": {"Env": environment(self.majors[command[-1]])}}])
        if words.startswith("docker rm "):
            for one in (word for word in command if word.startswith("id-")):
                self.happen(f"remove {one.removeprefix('id-')}")
                self.containers.pop(one.removeprefix("id-"), None)
            return ""
        if words.startswith("docker volume rm "):
            self.volumes.discard(command[-1])
            return ""
        if command[0] == "systemctl" and command[2] == "--no-block":
            self.happen(f"systemctl {command[1]}")
            self.started.append(command[-1])
            return ""
        return self.fallback(*command, **options)

    def output(self, *command):
        """Answer a command whose failure does not matter."""
        if command[:2] == ("systemctl", "stop"):
            self.happen("end backups")
            return ""
        if command[:2] == ("systemctl", "reset-failed"):
            self.happen("systemctl reset-failed")
            return ""
        if command[:3] == ("systemctl", "start", "--no-block"):
            self.started.append(command[-1])
            return ""
        return self.fallback_output(*command)

    def inspect(self, service):
        """Return the `docker inspect` output of a container."""
        return {
            "Id": f"id-{service}",
            "Name": f"/slipway-{service}-1",
            "Created": shown(self.time),
            "State": {"Status": self.containers[service]},
            "Config": {"Env": environment(self.running)},
            "Mounts": [
                {"Source": "/opt/slipway/roles.sql", "Destination": "/etc/slipway/roles.sql"},
                {"Source": str(self.place), "Destination": MOUNT},
            ],
        }

    def compose(self, words, line, **options):
        """Answer a command of docker compose; return None for one that `Engine` in fakes.py answers."""
        service = next((word for word in words if word in SERVICES), None)
        if words[0] == "exec" and service and self.containers.get(service) != "running":
            raise failure(f'service "{service}" is not running')
        if "pgbackrest" in words:
            return self.pgbackrest(words, service)
        if "--target-timeline" in line:
            return self.recover(words, service)
        if "timeline" in words:
            return self.begin_timeline(words, service)
        if "psql" in words and words[-1].startswith("--command=") and "--file=-" not in words:
            return self.query(service, words[-1].removeprefix("--command="))
        if words[:1] == ("ps",) and service == "db":
            return "id-db" if "db" in self.containers else ""
        if words[0] == "config" and words[1] == "--format=json":
            return json.dumps({"services": {"db": {"image": image_in(options["stdin"])}}})
        if words[0] == "up" and service in COPIES:
            self.start_copy(service, image_in(options["stdin"]))
        elif words[0] == "up" and service == "db" and self.containers.get("db") == "running":
            pass  # --no-recreate
        elif words[0] == "up" and service:
            if self.majors and service == "db":
                self.running = self.majors[
                    image_in((self.engine.stack.directory / "compose.yml").read_text())
                ]
            self.happen(f"start {service}")
            assert service != "db" or self.live.exists(), "the database would begin anew"
            self.containers[service] = "running"
        elif "--no-online" in line:
            self.happen("check backups")
        elif "pg_dumpall" in line:
            self.happen(f"copy {service}")
            if service == "db_upgrade":
                assert self.engine.variables[-1]["blog_app_blue"] == "NOLOGIN PASSWORD NULL", (
                    "the blog can write"
                )
                [copy] = self.place.glob("*/upgraded")
                (copy / "name").write_text(f"copy of {self.serving()}")
            self.content[service] = self.copied.get(service, self.content["db"])
        elif words[:1] in (("stop",), ("rm",)) and service:
            self.happen(f"stop {service}")
            self.containers[service] = "exited"
            if words[0] == "rm":
                del self.containers[service]
        elif "pg_dump" in words:
            self.happen(f"dump {service}")
            options["into"].write(b"a dump")
        elif "flask_drill" in words and "flask" in words:
            self.flask(words)
        elif "flask_drill" in words:
            self.happen("pages")
        elif "pg_amcheck" in words:
            self.happen("amcheck")
        elif "pg_checksums" in words:
            assert self.containers.get(service) != "running", "pg_checksums needs a stopped database"
            self.happen("checksums")
        else:
            return None
        return ""

    def pgbackrest(self, words, service):
        """Answer a command of pgBackRest."""
        name = next(word for word in words if word in COMMANDS)
        assert service == ("db_restore" if words[0] == "run" else "db")
        assert service == "db" or name not in WRITING, "this container cannot write to the repository"
        kind = next((word.removeprefix("--type=") for word in words if word.startswith("--type=")), "")
        self.happen(f"{name} {kind}".strip())
        if name == "stanza-upgrade":
            self.databases += [self.running] if self.running != self.major else []
        elif name == "stanza-create":
            if self.foreign:
                raise failure("do not match the database", 28)
            if self.code in (1, 3):
                self.created, self.code = self.created + 1, 2
        elif name == "backup":
            self.code = 0
            made = backup(kind, self.time, damaged=self.damaged, segment=self.segments[-1])
            self.backups.append(made | {"database": {"id": len(self.databases), "repo-key": 1}})
        elif name == "verify":
            return self.verified
        elif name == "repo-ls":
            own = f"{self.major}-{len(self.databases)}"
            names = [f"{own}/{one[:16]}/{one}-{'6e0f' * 10}.zst" for one in self.segments]
            histories = [f"{own}/{timeline:08X}.history" for timeline in self.histories]
            others = [".", own, f"{own}/archive.info", *histories, *self.former_files]
            return json.dumps({name: {"type": "file"} for name in [*names, *others]})
        elif name == "repo-get":
            return self.histories[int(words[-1].rpartition("/")[2].partition(".")[0], 16)]
        elif name == "info":
            return json.dumps([self.info()])
        return ""

    def flask(self, words):
        """Run a command of the blog on a recovered database."""
        self.happen(" ".join(words[words.index("flask") :][:2]))
        for place in (Path(word.split("=")[1].split(":")[0]) for word in words if "--volume=" in word):
            (place / "posts").mkdir(exist_ok=True)
            (place / "posts/a.md").write_text("a restored post")
            (place / "export.json").write_text("{}")

    def info(self):
        """Return the state of the repository, as pgBackRest shows it."""
        has_data, system = self.code not in (1, 3), 7001 if self.foreign else 7000
        return {
            "archive": [],
            "backup": self.backups if has_data else [],
            "db": [
                {"id": number, "repo-key": 1, "system-id": system, "version": major}
                for number, major in enumerate(self.databases, start=1)
            ],
            "name": "blog",
            "repo": [{"key": 1, "status": {"code": self.code, "message": self.repository_message}}],
            "status": {
                "code": self.code,
                "lock": {"backup": {"held": self.is_busy}},
                "message": MESSAGES[self.code],
            },
        }

    def recover(self, words, service):
        """Restore a backup into the directory of a service."""
        assert self.containers.get(service) != "running", "a database runs in this directory"
        self.targets.append([word for word in words if word.startswith(("--type=", "--target"))])
        if service == "db_drill":
            self.volumes.add("slipway_drill")
        else:
            directory = self.live.with_name("restored")
            directory.mkdir(exist_ok=True)
            (directory / "name").write_text(f"restored database {len(self.targets)}")
            (directory / "standby.signal").touch()
        self.happen(f"recover {service}")
        return ""

    def start_copy(self, service, image):
        """Create an empty database of another version."""
        self.happen(f"start {service}")
        if service == "db_upgrade":
            (self.place / self.majors[image] / "upgraded").mkdir(parents=True)
        else:
            assert self.containers["db_drill"] == "running", "its network is that of the other database"
        self.containers[service] = "running"

    def begin_timeline(self, words, service):
        """Run the commands that let a database begin another timeline, in its directory on this host."""
        assert service == "db_restore", "the container of db may be missing, or unable to start"
        directory = self.live.with_name(Path(words[-1]).name)
        assert words[-1] == f"{MOUNT}/{GENERATIONS}/{directory.name}"
        assert directory != self.live, "a database may run in this directory"
        self.happen("timeline")
        subprocess.run([*words[words.index("bash") : -1], directory], check=True)
        return ""

    def query(self, service, statement):
        """Answer an SQL statement; return None for one that `Engine` in fakes.py answers."""
        if "pg_stat_activity" in statement:
            return "0"
        if "the_row" in statement:
            return json.dumps(self.content[service])
        if "datistemplate" in statement:
            return self.others
        if "LOCK TABLE" in statement:
            self.happen("count db")
            return json.dumps({"position": "0/B000028", "rows": self.rows})
        if "pg_last_wal_replay_lsn" in statement:
            self.happen(f"position {service}")
            paused = not self.targets or "--type=standby" not in self.targets[-1]
            at = self.ago(seconds=30).timestamp()
            return json.dumps({"position": self.position, "paused": paused, "at": at})
        if statement == "CHECKPOINT":
            self.happen(f"checkpoint {service}")
            return ""
        if "pg_control_system" in statement:
            return "7000"
        if "query_to_xml" in statement:
            self.happen(f"count {service}")
            return json.dumps(self.restored)
        if "pg_promote" in statement:
            self.happen(f"promote {service}")
            if service == "db":
                if not self.is_standby():
                    raise failure("recovery is not in progress")
                (self.live / "standby.signal").unlink()
            return "t\n"
        if "pg_ls_archive_statusdir" in statement:
            self.happen("archiver")
            return json.dumps(self.archiver | {"readonly": self.is_standby()})
        if "pg_last_committed_xact" in statement:
            return "3.5\n"
        if "pg_switch_wal" in statement:
            self.happen("close")
            return f"{LAST}\n"
        if "last_archived_wal" in statement:
            return "t\n"
        if "pg_is_in_recovery" in statement:
            return "t\n" if self.is_standby() else "f\n"
        return "" if service != "db" else None
