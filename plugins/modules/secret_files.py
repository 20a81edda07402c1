#!/usr/bin/python
# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keep one file for each secret; generate each secret that is not given, once, on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_files
short_description: One file for each secret, given or generated once
description:
  - Writes each secret to a separate file with mode 0400, owned by the uid that reads it.
  - Generates a secret of letters and digits if it is not given and its file is absent. Later runs keep it.
  - Fails, before it writes anything, if a file is empty or damaged and the value of its secret is not given.
  - Never puts a value into its output or diff.
options:
  directory:
    description:
      - Directory of the files. It and its parent get mode 0700 and belong to the user who runs the module,
        usually root. So no other user of the host can read a file, not even a user with the uid that owns it.
    type: path
    required: true
  names:
    description:
      - The secrets by name, each a dictionary with the C(uid) of its reader.
      - An C(optional) secret is not generated. If its value is not given, its file is removed.
      - A secret with C(lines) may have several lines, such as a private key.
      - A C(permanent) secret encrypts data, so the module fails if another value than the file's is given.
    type: dict
    required: true
  given:
    description: Values by name, for example from the vault.
    type: dict
    default: {}
  length:
    description: Number of characters of a generated secret.
    type: int
    default: 40
attributes:
  check_mode:
    description: Can run in check mode, in which it reports changes and makes none.
    support: full
  diff_mode:
    description: Returns the differences in diff mode.
    support: none
author:
  - The Slipway developers (@slipway)
"""

EXAMPLES = r"""
- name: Write each secret, from the vault or generated once
  slipway.blog.secret_files:
    directory: /etc/slipway/secrets
    names:
      db_password: {uid: 999}
      webhook_token: {uid: 0, optional: true}
    given: "{{ secrets_vault }}"
  no_log: true
"""

RETURN = r"""
written:
  description: Names of the secrets whose content was written.
  type: list
  returned: always
mended:
  description: Names of the secrets whose owner or mode was corrected.
  type: list
  returned: always
removed:
  description: Names of the optional secrets whose file was removed.
  type: list
  returned: always
"""

import os
import re
import secrets
import stat
import string
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.slipway.blog.plugins.module_utils.managed_files import sync

MODE = 0o400  # the copies that slots read have the mode in write_secret of host/slipway/files.py
DIRECTORY_MODE = 0o700
# A secret: one line of 12 or more ASCII characters. An editor may have added the line break.
FORM = re.compile(rb"(?=.{12})[!-~][ -~]*[!-~]\n?")


def generate(length):
    """Return a random secret of `length` letters and digits, each with about 5.95 bits of entropy."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _place in range(length))


def keep(directory, check):
    """Keep all but the owner out of the directory and its parent; return whether a change was necessary."""
    owner = (os.geteuid(), os.getegid(), DIRECTORY_MODE)
    wrong = [place for place in (directory.parent, directory) if owner_and_mode(place) != owner]
    for place in wrong if not check else ():
        place.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        os.chown(place, *owner[:2])
        place.chmod(DIRECTORY_MODE)
    return bool(wrong)


def owner_and_mode(path):
    """Return uid, gid and mode of a path, or None if it does not exist."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def write(path, value, uid):
    """Write value to path in one step, so that path never has a part of it or a wrong owner or mode."""
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
    """Tell whether a file exists and holds no secret."""
    return path.exists() and not FORM.fullmatch(path.read_bytes())


def differs(path, value):
    """Tell whether a file exists and holds another value."""
    return path.exists() and path.read_bytes().strip() != str(value).encode()


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
            msg=f"A secret's file is empty or damaged: {', '.join(harmed)}. Nothing was changed. Remove the "
            "file on the host, or set the value in secrets_vault; then run site.yml, which generates missing "
            "secrets and puts them into service."
        )
    names = module.params["names"]
    permanent = [name for name in given if names.get(name, {}).get("permanent")]
    if other := [name for name in permanent if differs(directory / name, given[name])]:
        module.fail_json(
            msg=f"secrets_vault has another value for {', '.join(other)} than the host. Nothing was changed: "
            f"the backups are encrypted with the host's value, in {directory}, and could not be read any "
            "more. Put that value into the vault."
        )
    made = keep(directory, module.check_mode)
    for name, reader in module.params["names"].items():
        path, uid = directory / name, reader["uid"]
        value = given.get(name)
        if value is not None and reader.get("lines"):
            # OpenSSH wants a line break at the end of a private key.
            value = f"{value.strip()}\n"
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
        if owner_and_mode(path) != (uid, uid, MODE):
            mended.append(name)
            if not module.check_mode:
                os.chown(path, uid, uid)
                path.chmod(MODE)
    changed = bool(made or written or mended or removed)
    module.exit_json(changed=changed, written=written, mended=mended, removed=removed)


if __name__ == "__main__":
    main()
