"""A throwaway database that is recovered from a backup, and the blog on it.

The containers share one network. If the repository is on this host, this network has only the loopback
interface, and they cannot write to the repository. Otherwise, the firewall lets them reach only the
repository (roles/baseline/templates/nftables.conf.j2).
"""

import contextlib
import secrets
import shutil
from collections.abc import Iterator

from slipway import containers
from slipway.credentials import write_copies
from slipway.database import scram_verifier
from slipway.recovered import Recovered
from slipway.stack import Stack

# The services in compose.yml, and the name of the volume.
DATABASE, BLOG, VOLUME = "db_drill", "flask_drill", "slipway_drill"
# In the rehearsal of an upgrade (upgrade.py), another database in place of the blog.
REHEARSAL = "db_rehearsal"
# The directory with the secrets of the blog.
COPIES = "drill"


def remove(stack: Stack) -> None:
    """Remove the containers, the volume and the secrets, also those of a run that was killed."""
    host = stack.host
    # The database's container last: the others are in its network.
    for service in (BLOG, REHEARSAL, DATABASE):
        if found := containers.of_service(host, service):
            host.run("docker", "rm", "--force", "--volumes", *found)
    host.run("docker", "volume", "rm", "--force", VOLUME)
    if (stack.in_service / COPIES).exists():
        shutil.rmtree(stack.in_service / COPIES)


@contextlib.contextmanager
def throwaway(stack: Stack) -> Iterator[Recovered]:
    """Yield a database that is yet to be recovered; remove all of it before and after the block."""
    remove(stack)
    try:
        yield Recovered(stack, DATABASE)
    finally:
        remove(stack)


def admit_blog(stack: Stack, database: Recovered) -> None:
    """Give the blog's containers a login to the database, which must accept changes."""
    password = secrets.token_hex(20)
    write_copies(stack, COPIES, {"app_secret_key": secrets.token_hex(32), "db_app_password": password})
    for role in ("blog_app_blue", "blog_migrator"):
        database.query(f"ALTER ROLE {role} LOGIN PASSWORD '{scram_verifier(password)}'")
