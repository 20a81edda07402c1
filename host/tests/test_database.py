"""The database: passwords, its start and its dumps."""

import base64
import hashlib
import hmac
import re

import pytest
from fakes import NEW

from slipway.database import SPARE_DISK, scram_verifier
from slipway.release import release
from slipway.shell import CommandFailure, Failure

# RFC 7677, section 3: the password "pencil", and an exchange that proves knowledge of the password.
SALT, CLIENT_PROOF = "W22ZaJ0SNY7soEsUEjb6gQ==", "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_SIGNATURE = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
NONCE = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
AUTH_MESSAGE = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={NONCE},s={SALT},i=4096,c=biws,r={NONCE}".encode()


def test_verifier_passes_the_exchange_in_the_rfc():
    verifier = scram_verifier("pencil", f"SCRAM-SHA-256$4096:{SALT}$of:another")
    head, keys = verifier.rsplit("$", 1)
    stored_key, server_key = map(base64.b64decode, keys.split(":"))
    assert head == f"SCRAM-SHA-256$4096:{SALT}"
    assert base64.b64encode(hmac.digest(server_key, AUTH_MESSAGE, "sha256")).decode() == SERVER_SIGNATURE
    mask = hmac.digest(stored_key, AUTH_MESSAGE, "sha256")
    client_key = bytes(a ^ b for a, b in zip(base64.b64decode(CLIENT_PROOF), mask, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key


def test_verifier_that_matches_the_password_is_kept():
    verifier = scram_verifier("correct horse")
    assert scram_verifier("correct horse", verifier) == verifier
    assert scram_verifier("battery staple", verifier) != verifier


@pytest.mark.parametrize("existing", [None, "", "md5a3556571e93b0d20722ba62be61e8c2d"])
def test_new_verifier_gets_its_own_salt(existing):
    first, second = (scram_verifier("pencil", existing) for _ in range(2))
    assert re.fullmatch(r"SCRAM-SHA-256\$4096:[\w+/]{22}==\$[\w+/]{43}=:[\w+/]{43}=", first)
    assert first != second


def test_dump_does_not_start_without_enough_disk_space(stack, engine):
    engine.plan |= {"pending": ["0002"]}
    engine.space = SPARE_DISK + 1_200_000 - 1
    with pytest.raises(Failure, match=r"dump before the migration may need 1 MB.*has 68 MB of free space"):
        release(stack, NEW, "", "", "anna")
    assert not {"dump", "migrate"} & set(engine.events)


def test_database_that_does_not_start_is_reported_with_its_log(stack, engine):
    engine.wrong["database"] = CommandFailure(["docker"], 1, "container slipway-db-1 exited (1)")
    with pytest.raises(Failure) as failure:
        release(stack, NEW, "1.2", "abc123", "anna")
    words = "The container slipway-db-1 is exited (exit code none). Its last lines:\n    of db\n"
    assert f"container slipway-db-1 exited (1)\n{words}" in str(failure.value)
    assert "The blue slot serves as before." in str(failure.value)


def test_release_waits_for_a_database_that_the_engine_reports_healthy_too_early(stack, engine):
    engine.starting = [CommandFailure(["docker"], 2, "no response") for _ in range(3)]
    entry = release(stack, NEW, "2.0", "abc", "anna")
    assert entry.outcome == "in service"
    assert engine.starting == []
