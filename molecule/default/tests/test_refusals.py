"""Wrong input is refused before anything changes, with one message that says what to do.

Each case is a separate run of ansible-playbook. They do not depend on each other, so a few run at a time.
"""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import pytest
import yaml
from certificates import make_certificate
from outside import ROOT, play

CONNECTION = ("host", "port", "user", "ssh_private_key_file", "ssh_common_args")
# Use a new connection: an open one checks no keys, and would hide the failure.
AFRESH = {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ControlPath=none"}
NOWHERE = {name: f"127.0.0.1:1/{name}@sha256:{'0' * 64}" for name in ("nginx", "postgres", "python")}


@dataclass(frozen=True)
class Case:
    """One refusal: what is run, and the words of its message."""

    name: str
    says: list
    variables: list = field(default_factory=list)
    run: object = None
    hides: str = "\0"

    def __call__(self, place):
        """Run the case."""
        if self.run:
            return self.run(place)
        return place.deploy(
            "site.yml", *extra(*(variable.format(**vars(place)) for variable in self.variables))
        )


def extra(*variables):
    """Return variables as arguments of ansible-playbook, as they are typed."""
    return [argument for variable in variables for argument in ("--extra-vars", variable)]


def in_bare_production(place):
    """Run with inventory/production as it is, plus only the variables of the connection."""
    copytree(ROOT / "inventory/production", place.tmp / "production")
    return play(
        "site.yml", "--inventory", str(place.tmp / "production"), *extra(json.dumps(place.connection))
    )


def with_vault(name, *arguments):
    """Return a run with encrypted secrets whose password is wrong or missing."""

    def run(place):
        inventory = place.tmp / f"vault-{name}"
        (inventory / "group_vars/all").mkdir(parents=True)
        hosts = {"slipway": {"hosts": {"blog": place.connection | {"stack_domain": "localhost"}}}}
        (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
        vault, right, wrong = (inventory / file for file in ("group_vars/all/vault.yml", ".right", ".wrong"))
        vault.write_text("secrets_vault: {}\n")
        right.write_text("right\n")
        wrong.write_text("wrong\n")
        encrypt = ["ansible-vault", "encrypt", "--vault-password-file", str(right), str(vault)]
        subprocess.run(encrypt, cwd=ROOT, check=True, capture_output=True)
        return play("site.yml", "--inventory", str(inventory), *(a.format(wrong=wrong) for a in arguments))

    return run


def with_other_host_key(place):
    """Run with a known_hosts file that has another key than the host's."""
    key = place.tmp / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().split()[:2]
    known = place.tmp / "known_hosts"
    known.write_text(
        f"[{place.connection['ansible_host']}]:{place.connection['ansible_port']} {' '.join(public)}\n"
    )
    options = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
    return place.deploy("site.yml", *extra(json.dumps({"ansible_ssh_common_args": options})), **AFRESH)


def with_no_key(place):
    """Run without a valid key, for the inventory's user and for the users that a new host may have."""
    variables = {
        "ansible_ssh_private_key_file": "/dev/null",
        "baseline_bootstrap_users": ["root", "debian"],
    }
    return place.deploy("site.yml", *extra(json.dumps(variables)), **AFRESH)


POST = "---\ntitle: A\n{}---\n\nText.\n"
POSTS = {
    "plain.md": b"# Hello\n",
    "deep/date.md": POST.format("date: soon\n").encode(),
    "one.md": POST.format("date: 2025-01-01\nslug: ropes-a-table\n").encode(),
    "two.md": POST.format("date: 2025-01-01\nslug: ropes-a-table\n").encode(),
    "latin.md": POST.format("date: 2025-01-01\n").replace("Text", "Été").encode("latin-1"),
    **{f"same/{number}.md": b"# Hello\n" for number in range(20)},
}
PROBLEMS = [
    "plain.md:1: has no front matter; begin it with",
    "deep/date.md:3: has the wrong date 'soon' in the field date; write it like 2026-01-31",
    "two.md:4: has the same slug as one.md, 'ropes-a-table'; change one slug",
    "latin.md:6: is not UTF-8 (byte 35 of the file); save it as UTF-8",
    f"huge.md:1: has {50 * 10**6} bytes, over the limit of 1114112; split it",
    *(f"same/{number}.md:1: has no front matter" for number in range(20)),
    "nothing was imported; problems: 25",
]


def import_of_bad_posts(place):
    """Import a directory in which hardly any file can become a post."""
    for name, content in POSTS.items():
        file = place.tmp / "posts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    with (place.tmp / "posts/huge.md").open("wb") as file:
        file.truncate(50 * 10**6)
    return place.deploy("playbooks/import.yml", *extra(f"import_directory={place.tmp / 'posts'}"))


def images_that_cannot_be_had(place):
    """Fail to build an image, then to pull some: in sequence, because both use one directory of the host."""
    app = place.tmp / "app"
    app.mkdir()
    (app / "Dockerfile").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN echo the reason is in the stars | tee /reason && exit 3\n"
    )
    return [
        place.deploy("site.yml", *extra(f"images_blog_source={app}")),
        place.deploy("site.yml", *extra("images_base=registry", json.dumps({"__images_lock": NOWHERE}))),
    ]


IMAGES_SAY = [
    [
        "slipway/flask_blog:",
        "could not be had",
        "the reason is in the stars",
        "Nothing that runs was touched",
    ],
    [
        NOWHERE["nginx"],
        "could not be had",
        "connection refused",
        "docker_registry_mirrors",
        "images_base: debian",
    ],
]

CASES = [
    # The host.
    Case(
        "unreachable",
        [
            "molecule-default cannot be reached as ops at 127.0.0.1, port 1",
            "Connection refused",
            "Check ansible_host, ansible_port and ansible_user",
        ],
        ["ansible_port=1"],
    ),
    Case(
        "other host key",
        ["molecule-default cannot be reached", "HOST IDENTIFICATION HAS CHANGED", "remove with: ssh-keygen"],
        run=with_other_host_key,
    ),
    Case(
        "no key that fits",
        [
            "molecule-default cannot be reached as ops at 127.0.0.1",
            "Permission denied (publickey)",
            "Nor can it as a user that a new host has (root, debian). Check ansible_host",
        ],
        run=with_no_key,
    ),
    Case(
        "not root",
        ["guest cannot become root on molecule-default", "passwordless sudo", "--ask-become-pass"],
        ["ansible_user=guest"],
    ),
    Case(
        "limit to an unknown host",
        ["leaves us with no hosts to target"],
        run=lambda place: play("site.yml", "--inventory", place.inventory, "--limit", "nosuch"),
    ),
    Case(
        "unknown inventory",
        ["parse inventory source", "/inventory/nosuch"],
        run=lambda place: play("site.yml", "--inventory", "inventory/nosuch"),
    ),
    Case(
        "disk",
        [
            "/var/lib/docker on molecule-default has",
            "needs 99999999 MB (docker_min_disk_mb)",
            "Free some space",
        ],
        ["docker_min_disk_mb=99999999"],
    ),
    Case(
        "memory for two slots",
        [
            "MB of memory and the stack needs {two_slots} MB",
            "stack_flask_blog_memory_mb twice",
            "Lower these limits",
        ],
        ["stack_flask_blog_memory_mb={memory}"],
    ),
    Case(
        "two mistakes at once",
        [
            "stack_nginx_memory_mb is 200",
            "use 252 or more",
            'stack_session_cookies is ["a b"]',
            "a name has letters, digits",
        ],
        ['{{"stack_nginx_memory_mb": 200, "stack_session_cookies": ["a b"]}}'],
    ),
    Case(
        "port of a program",
        ["Port 22 (stack_http_port) of molecule-default is taken by sshd", "choose another stack_http_port"],
        ["stack_http_port=22"],
    ),
    Case(
        "port of a container",
        [
            "Port 8099 (stack_http_port)",
            "taken by container slipway-test-rival",
            "choose another stack_http_port",
        ],
        ["stack_http_port=8099"],
    ),
    # Users.
    Case(
        "root for the admin user",
        ['The admin user of molecule-default is "root"', "whose login is closed", "Write ansible_user: ops"],
        ["baseline_admin_user=root"],
    ),
    Case(
        "allow-list without the admin user",
        ['baseline_ssh_allow_users is ["anna"], so ops could not log in', "Add ops to it"],
        ['{{"baseline_ssh_allow_users": ["anna"]}}'],
    ),
    Case(
        "allow-list with a setting",
        ['"ops\\nPermitRootLogin yes": baseline_ssh_allow_users takes names, or name@address'],
        ['{{"baseline_ssh_allow_users": ["ops", "ops\\nPermitRootLogin yes"]}}'],
    ),
    Case(
        "private key for a public one",
        ["baseline_admin_keys has no public key as item 2 of 2", "as in ~/.ssh/id_ed25519.pub"],
        [
            json.dumps({"baseline_admin_keys": [f"ssh-ed25519 {'A' * 68} ops", "never-to-be-shown"]})
            .replace("{", "{{")
            .replace("}", "}}")
        ],
        hides="never-to-be-shown",
    ),
    # Networks.
    Case(
        "subnet of the host",
        [
            "stack_app_subnet {subnet} overlaps network",
            "of interface eth0 on the host",
            "Choose another subnet",
        ],
        ["stack_app_subnet={subnet}"],
    ),
    Case(
        "subnet of the host, IPv6",
        [
            "stack_data_subnet_ipv6 {subnet_ipv6} overlaps network",
            "of interface eth0 on the host",
            "Choose another subnet",
        ],
        ["stack_data_subnet_ipv6={subnet_ipv6}"],
    ),
    Case(
        "two subnets that overlap",
        ["stack_data_subnet 10.83.0.0/16 overlaps stack_edge_subnet 10.83.1.0/24", "Choose another subnet"],
        ["stack_data_subnet=10.83.0.0/16"],
    ),
    Case(
        "subnet that is none",
        ["stack_edge_subnet is '10.83.1.0/33', which is no network", "Choose another subnet"],
        ["stack_edge_subnet=10.83.1.0/33"],
    ),
    Case(
        "address for a subnet",
        ["stack_edge_subnet is '10.83.1.9/24', which is no network", "host bits set"],
        ["stack_edge_subnet=10.83.1.9/24"],
    ),
    # Variables.
    Case(
        "nothing said",
        ["blog has no stack_domain and no release_admin_email", "group_vars/all/main.yml"],
        run=in_bare_production,
    ),
    Case(
        "port in words",
        ["stack_http_port", "'eighty'", "unable to convert to int"],
        ["stack_http_port=eighty"],
    ),
    Case(
        "number for aliases",
        ["stack_domain_aliases is 5, which is no list", "Write it like [www.example.org]"],
        ['{{"stack_domain_aliases": 5}}'],
    ),
    *(
        Case(
            f"network {network!r}",
            [f"have {json.dumps(network)}, which is no network of some", "write it like 10.0.0.0/24"],
            [json.dumps({variable: [network]}).replace("{", "{{").replace("}", "}}")],
        )
        for variable, network in {
            "stack_trusted_proxies": "0.0.0.0/0",
            "stack_rate_exempt": "10.0.0.1/8",
        }.items()
    ),
    Case(
        "rate of nothing",
        ["stack_rate_writes and stack_rate_connections are 256, 30, 0 and 100", "each must be 2 or more"],
        ["stack_rate_writes=0"],
    ),
    Case(
        "methods in a word",
        ['stack_methods is "GET", which is no list', "Write it like [GET]"],
        ["stack_methods=GET"],
    ),
    Case(
        "session cookie in a word",
        ['stack_session_cookies is "session", which is no list', "Write it like [session]"],
        ["stack_session_cookies=session"],
    ),
    Case(
        "name for redirects",
        ['stack_domain_redirects is "www.example.org", which is no list', "Write it like [www.example.org]"],
        ['{{"stack_domain_redirects": "www.example.org"}}'],
    ),
    Case("unknown base", ["images_base must be one of: registry, debian, got: foo"], ["images_base=foo"]),
    *(
        Case(
            f"domain {domain!r}",
            [
                f"stack_domain_aliases have {json.dumps(domain)}, which is no host name",
                "write it like blog.example.org",
            ],
            [json.dumps({"stack_domain": domain}).replace("{", "{{").replace("}", "}}")],
        )
        for domain in ("http://x", "a b", "blog.example.org/", "")
    ),
    Case(
        "base URL with a path",
        ['stack_base_url is "https://x/blog"', "Write it like https://blog.example.org"],
        ["stack_base_url=https://x/blog"],
    ),
    Case(
        "base URL without TLS",
        ['stack_base_url is "http://blog.test"', "send readers on to itself", "Write it with https://"],
        ["tls_mode=selfsigned", "stack_domain=blog.test", "stack_base_url=http://blog.test"],
    ),
    Case(
        "address of nobody",
        ['release_admin_email is "anna"', "like anna@example.org"],
        ["release_admin_email=anna"],
    ),
    # The host's own settings.
    Case(
        "port for a list",
        ["baseline_public_tcp_ports: that is no list", "Write it like [80, 443]", "also for one"],
        ["baseline_public_tcp_ports=443"],
    ),
    Case(
        "port beyond the last",
        ["have 70000, 0, which is no port", "baseline_host_udp_ports", "numbers from 1 to 65535"],
        ['{{"baseline_public_tcp_ports": [80, 70000], "baseline_host_udp_ports": [0]}}'],
    ),
    Case(
        "no connection at all",
        ["baseline_ssh_rate is 0", "nobody could connect", "numbers above 0"],
        ["baseline_ssh_rate=0"],
    ),
    Case(
        "time of day",
        ['baseline_reboot_time is "25:00", which is no time of day', 'like "04:00", with quotes'],
        ["baseline_reboot_time=25:00"],
    ),
    Case(
        "size of the journal",
        ['baseline_journal_max_size is "much", which is no size', "like 500M"],
        ["baseline_journal_max_size=much"],
    ),
    Case(
        "swap larger than the disk",
        ["baseline_swap_mb is 99999999", "MiB free", "0 for no swap"],
        ["baseline_swap_mb=99999999"],
    ),
    # HTTPS.
    Case(
        "port of a program, for HTTPS",
        ["Port 22 (stack_https_port) of", "is taken by sshd", "choose another stack_https_port"],
        ["stack_https_port=22", "tls_mode=selfsigned", "stack_domain=blog.test"],
    ),
    Case(
        "address over HTTPS",
        ["tls_mode is selfsigned, but 192.0.2.1 is an address", "Give the host a name"],
        ["tls_mode=selfsigned", '{{"tls_names": ["192.0.2.1"]}}'],
    ),
    Case(
        "DNS that leads elsewhere",
        [
            "localhost has the A record 127.0.0.1",
            "nosuch.test has no A and no AAAA record",
            "{address}",
            "tls_check_dns: false",
        ],
        ["tls_mode=acme", '{{"tls_names": ["localhost", "nosuch.test"]}}'],
    ),
    Case(
        "CA of an authority",
        ['tls_acme_ca_file is "/nowhere/ca.pem", but there is no such file', "Name a PEM file"],
        ["tls_mode=acme", "tls_acme_ca_file=/nowhere/ca.pem"],
    ),
    Case(
        "certificate that is nowhere",
        ['tls_key_file is "", but there is no such file', "With tls_mode: provided, name a PEM file"],
        ["tls_mode=provided", "tls_certificate_file={tmp}/good/certificate.pem"],
    ),
    *(
        Case(
            f"certificate {name}",
            [message, "Name other files"],
            [
                "tls_mode=provided",
                '{{"tls_names": ["blog.test"]}}',
                f"tls_certificate_file={{tmp}}/{certificate}",
                f"tls_key_file={{tmp}}/{key}",
            ],
            hides="PRIVATE KEY",
        )
        for name, certificate, key, message in (
            (
                "of another key",
                "good/certificate.pem",
                "another/key.pem",
                "the key in tls_key_file is not that of the certificate",
            ),
            (
                "for another name",
                "another/certificate.pem",
                "another/key.pem",
                "is for other.test, and not for blog.test",
            ),
            ("that is over", "over/certificate.pem", "over/key.pem", "tls_certificate_file ended at 20"),
            ("that is none", "good/key.pem", "good/key.pem", "tls_certificate_file holds no certificate"),
        )
    ),
    # Files and secrets.
    Case(
        "CA for pip",
        ['images_ca_file is "/nowhere/ca.pem", but there is no such file', "Name a PEM file"],
        ["images_ca_file=/nowhere/ca.pem"],
    ),
    Case(
        "CA of the host",
        ['docker_ca_file is "/nowhere/ca.pem", but there is no such file', "Name a PEM file"],
        ["docker_ca_file=/nowhere/ca.pem"],
    ),
    Case(
        "mirror with a path",
        [
            'docker_registry_mirrors is ["https://mirror.example.org/hub"]',
            "Write a list, also for one, of addresses without a path",
        ],
        ['{{"docker_registry_mirrors": ["https://mirror.example.org/hub"]}}'],
    ),
    Case(
        "mirror that is no list",
        [
            'docker_registry_mirrors is "https://mirror.example.org"',
            "Write a list, also for one",
        ],
        ["docker_registry_mirrors=https://mirror.example.org"],
    ),
    Case(
        "source without a Dockerfile",
        ['images_blog_source is "/nowhere"', "no Dockerfile", "or remove the variable"],
        ["images_blog_source=/nowhere"],
    ),
    Case(
        "address for a repository",
        [
            'images_repository is "https://registry.example.org/blog"',
            "without https:// and without a tag, like registry.example.org/blog",
        ],
        run=lambda place: place.deploy(
            "playbooks/build.yml", *extra("images_repository=https://registry.example.org/blog")
        ),
    ),
    Case(
        "secret that no one reads",
        ["secrets_vault has typo, which no one reads", "It may have db_superuser_password"],
        ['{{"secrets_vault": {{"typo": "never-to-be-shown"}}}}'],
        hides="never-to-be-shown",
    ),
    Case(
        "short secret",
        ["secrets_vault holds a value of fewer than 12 characters, under app_secret_key", "Use a longer one"],
        ['{{"secrets_vault": {{"app_secret_key": "never-shown"}}}}'],
        hides="never-shown",
    ),
    Case(
        "short key of the app",
        ["secrets_vault.app_secret_key has 20 characters", "refuses fewer than 32", "Use a longer one"],
        ['{{"secrets_vault": {{"app_secret_key": "never-shown-but-used"}}}}'],
        hides="never-shown-but-used",
    ),
    Case(
        "secret of two lines",
        ["secrets_vault holds a value with a line break", "under admin_password", "Use one line"],
        ['{{"secrets_vault": {{"admin_password": "never-shown-but\\nused"}}}}'],
        hides="never-shown-but",
    ),
    Case(
        "vault without its password",
        ["group_vars/all/vault.yml cannot be decrypted", "no vault secrets found", "--ask-vault-pass"],
        run=with_vault("without"),
    ),
    Case(
        "vault with another password",
        ["group_vars/all/vault.yml cannot be decrypted", "could decrypt", "--ask-vault-pass"],
        run=with_vault("wrong", "--vault-password-file", "{wrong}"),
    ),
    # Posts.
    Case("posts", PROBLEMS, run=import_of_bad_posts),
    Case(
        "no directory of posts",
        ['import_directory is "/nowhere", which is no directory', "Name one with Markdown files"],
        run=lambda place: place.deploy("playbooks/import.yml", *extra("import_directory=/nowhere")),
    ),
]


@pytest.fixture(scope="module")
def guest(host, variables):
    """A user of the host who may not become root."""
    home, user = "/home/guest/.ssh", variables["ansible_user"]
    allowed = "/etc/ssh/sshd_config.d/50-guest.conf"
    host.check_output(
        "useradd --create-home guest && mkdir %s && cp /home/%s/.ssh/authorized_keys %s", home, user, home
    )
    host.check_output("echo AllowUsers guest > %s && systemctl reload ssh", allowed)
    yield host.check_output("chown -R guest: %s", home)
    host.check_output("rm %s && systemctl reload ssh", allowed)
    host.check_output("pkill -KILL -u guest; userdel --force --remove guest")


@pytest.fixture(scope="module")
def rival(docker, inspect):
    """A container of somebody else that publishes a port."""
    image = inspect()["nginx"]["Image"]
    name = "slipway-test-rival"
    yield docker("run --detach --name %s --label slipway.test --publish 8099:80 %s sleep inf", name, image)
    docker("rm --force %s", name)


@pytest.fixture(scope="module")
def place(guest, rival, deploy, inventory, machine, variables, host, inspect, ledger, tmp_path_factory):
    """The values and functions that the cases use."""
    memory = int(host.check_output("awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo")) // 2
    tmp = tmp_path_factory.mktemp("refusals")
    make_certificate(tmp / "good", ["blog.test"])
    make_certificate(tmp / "another", ["other.test"])
    make_certificate(tmp / "over", ["blog.test"], days=-1)
    others = sum(variables[f"stack_{name}_memory_mb"] for name in ("nginx", "db", "host"))
    return SimpleNamespace(
        deploy=deploy,
        inventory=inventory,
        tmp=tmp,
        address=machine.ipv4,
        connection={f"ansible_{name}": variables[f"ansible_{name}"] for name in CONNECTION},
        subnet=machine.subnet,
        subnet_ipv6=machine.subnet_ipv6,
        memory=memory,
        two_slots=2 * memory + others,
        before=({service: c["Id"] for service, c in inspect().items()}, ledger()),
    )


@pytest.fixture(scope="module")
def outcomes(request, place):
    """The outcome of each selected case, by its name; three run at a time."""
    chosen = [
        item.callspec.params["case"]
        for item in request.session.items
        if item.path == Path(__file__) and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(3) as pool:
        images = pool.submit(images_that_cannot_be_had, place)
        yield {"images": images} | {case.name: pool.submit(case, place) for case in chosen}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_refused(case, outcomes, place, sql):
    outcome = outcomes[case.name].result()
    assert outcome.status != 0
    assert set(outcome.changed.values()) <= {0}
    [message] = outcome.errors
    assert [words for words in case.says if words.format(**vars(place)) not in message] == [], message
    assert case.hides not in outcome.output
    assert sql("SELECT count(*) FROM post") == [("2",)]


def test_image_that_cannot_be_had_is_told_and_what_runs_goes_on(outcomes, place, inspect, ledger):
    for outcome, says in zip(outcomes["images"].result(), IMAGES_SAY, strict=True):
        assert outcome.status != 0
        assert [words for words in says if words not in outcome.errors[-1]] == [], outcome.output
    assert ({service: c["Id"] for service, c in inspect().items()}, ledger()) == place.before


@pytest.fixture
def debian_11(host):
    """Make the host report Debian 11."""
    files = {"/usr/lib/os-release": "s/\\b13\\b/11/; s/trixie/bullseye/", "/etc/debian_version": "s/.*/11.9/"}
    for number, (path, change) in enumerate(files.items()):
        host.check_output("sed %s %s > /run/slipway-test-%s", change, path, str(number))
        host.check_output("mount --bind /run/slipway-test-%s %s", str(number), path)
    yield
    for number, path in enumerate(files):
        host.check_output("umount %s && rm /run/slipway-test-%s", path, str(number))


def test_unknown_system_is_refused(debian_11, deploy, hostname):
    outcome = deploy("site.yml")
    assert (outcome.status, outcome.changed) == (2, {hostname: 0})
    [message] = outcome.errors
    assert "molecule-default runs Debian 11.9; Slipway supports Debian 12, Debian 13, Ubuntu 24.04" in message
    assert "Reinstall the host" in message
