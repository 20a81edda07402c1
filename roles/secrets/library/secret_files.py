#!/usr/bin/python
"""Keeps one file for each secret; a secret that nobody gave is made once, on the host."""

import os
import re
import secrets
import stat
import string
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: secret_files
short_description: One file for each secret, given or made once
description:
  - Writes each secret to a file of its own, mode 0400, owned by the uid that reads it.
  - A secret that is not given is made of letters and digits when its file is absent, and never changed later.
  - A file that holds no secret, as an empty one, is refused before anything is written, unless it is given.
  - Neither output nor diff ever holds a value.
options:
  directory:
    description: Directory of the files, which belongs to root, or to whoever runs this, with mode 0711.
    type: path
    required: true
  names:
    description:
      - The secrets by name, each a dictionary with the C(uid) of its reader.
      - One that is C(optional) is not made here; its file goes when it is not given.
    type: dict
    required: true
  given:
    description: Values by name, such as from the vault.
    type: dict
    default: {}
  length:
    description: Characters of a secret that is made here.
    type: int
    default: 40
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

RETURN = r"""
written:
  description: Names of the secrets whose content was written.
  type: list
  returned: always
mended:
  description: Names of the secrets whose owner or mode was put right.
  type: list
  returned: always
removed:
  description: Names of the optional secrets whose file was removed.
  type: list
  returned: always
"""

MODE = 0o400
DIRECTORY_MODE = 0o711
# What is given or made here: one line of 12 characters of ASCII or more, which an editor may have ended.
FORM = re.compile(rb"(?=.{12})[!-~][ -~]*[!-~]\n?")


def generate(length):
    """Return a random secret of length letters and digits: about 5.95 bits each."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def keep(directory, check):
    """Make the directory, or put its owner and mode right; return whether that was due."""
    owner = (os.geteuid(), os.getegid(), DIRECTORY_MODE)
    if directory.exists():
        status = directory.stat()
        if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == owner:
            return False
    if not check:
        for made in [*reversed(directory.parents), directory]:
            if not made.exists() or made == directory:
                made.mkdir(exist_ok=True)
                os.chown(made, *owner[:2])
                made.chmod(DIRECTORY_MODE)
    return True


def sync(directory):
    """Have the names in a directory on the disk, so that they outlive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path, value, uid):
    """Put value into path in one step: no reader sees a half, and no moment has a wrong owner or mode."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(descriptor, "w") as file:
        file.write(value)
        os.fchown(file.fileno(), uid, uid)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def damaged(path):
    """Tell whether a file is there and holds no secret."""
    return path.exists() and not FORM.fullmatch(path.read_bytes())


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "names": {"type": "dict", "required": True},
            "given": {"type": "dict", "default": {}, "no_log": True},
            "length": {"type": "int", "default": 40},
        },
        supports_check_mode=True,
    )
    written, mended, removed = [], [], []
    directory, given = Path(module.params["directory"]), module.params["given"]
    kept = [name for name, reader in module.params["names"].items() if not reader.get("optional")]
    if harmed := [str(directory / name) for name in kept if name not in given and damaged(directory / name)]:
        module.fail_json(
            msg=f"Empty or damaged, and no secret any more: {', '.join(harmed)}. Nothing was changed. Remove "
            "it on the host, or give its value in secrets_vault; then run site.yml, which makes what is "
            "missing and puts it into service."
        )
    made = keep(directory, module.check_mode)
    for name, reader in module.params["names"].items():
        path, uid = directory / name, reader["uid"]
        value = given.get(name)
        if value is None and reader.get("optional"):
            if path.exists():
                removed.append(name)
                if not module.check_mode:
                    path.unlink()
            continue
        if not path.exists() or (value is not None and path.read_bytes() != str(value).encode()):
            written.append(name)
            if not module.check_mode:
                write(path, generate(module.params["length"]) if value is None else str(value), uid)
            continue
        status = path.stat()
        if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (uid, uid, MODE):
            mended.append(name)
            if not module.check_mode:
                os.chown(path, uid, uid)
                path.chmod(MODE)
    changed = bool(made or written or mended or removed)
    module.exit_json(changed=changed, written=written, mended=mended, removed=removed)


if __name__ == "__main__":
    main()
