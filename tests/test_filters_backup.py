"""The filter of the role `backup`."""

import pytest
from project import ROOT, load_program

backup_repository = load_program(ROOT / "plugins/filter/backup_repository.py").backup_repository

NOWHERE = {"host": "", "is_address": False, "port": 0}


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("local", {"kind": "local", "secrets": ["backup_passphrase"], **NOWHERE}),
        (
            "sftp://backup.example.org/srv/slipway",
            {
                "kind": "sftp",
                "secrets": ["backup_passphrase", "backup_sftp_key"],
                "user": "slipway",
                "host": "backup.example.org",
                "is_address": False,
                "port": 22,
                "directory": "/srv/slipway",
            },
        ),
        (
            "sftp://u1-sub2@198.51.100.7:23/blog",
            {
                "kind": "sftp",
                "secrets": ["backup_passphrase", "backup_sftp_key"],
                "user": "u1-sub2",
                "host": "198.51.100.7",
                "is_address": True,
                "port": 23,
                "directory": "/blog",
            },
        ),
        (
            "s3://[2001:db8::9]:9000/backups/blog",
            {
                "kind": "s3",
                "secrets": ["backup_passphrase", "backup_s3_secret"],
                "host": "2001:db8::9",
                "is_address": True,
                "port": 9000,
                "bucket": "backups",
                "directory": "/blog",
            },
        ),
    ],
)
def test_url_has_its_parts(url, parts):
    assert backup_repository(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "Local",
        "local\n",
        "/srv/slipway",
        "sftp://backup.example.org",
        "sftp://backup.example.org/",
        "sftp://backup.example.org/srv/../etc",
        "sftp://user:password@backup.example.org/srv",
        "sftp://backup.example.org:0/srv",
        "sftp://backup.example.org:65536/srv",
        "sftp://-o.example.org/srv",
        "sftp://backup/srv",
        "sftp://backup..example.org/srv",
        "sftp://999.1.1.1/srv",
        "sftp://1.2/srv",
        "s3://[:::]/bucket/blog",
        "s3://s3.example.org/bucket",
        "s3://s3.example.org/bucket/a b",
        "https://s3.example.org/bucket/blog",
        'sftp://backup.example.org/srv"\nrepo1-cipher-type=none',
    ],
)
def test_invalid_url_has_no_kind(url):
    assert backup_repository(url) == {"kind": "", "secrets": [], **NOWHERE}
