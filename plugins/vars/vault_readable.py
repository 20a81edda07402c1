# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Name the vault file that cannot be decrypted, because Ansible's error does not. Set no variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vault_readable
short_description: Names the vault file that cannot be decrypted
description:
  - Tries each encrypted file in the C(group_vars) and C(host_vars) of an inventory once, before Ansible
    loads the file.
"""

from pathlib import Path

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.parsing.vault import is_encrypted_file
from ansible.plugins.vars import BaseVarsPlugin


class VarsModule(BaseVarsPlugin):
    """Ansible's entry point, called for each inventory directory and each group or host."""

    is_stateless = True
    _tried = set()  # noqa: RUF012 (one set for all instances: a file is tried once)

    def get_vars(self, loader, path, entities):
        """Return no variables; raise AnsibleParserError with the name of a file that does not decrypt."""
        for file in sorted(Path(path).glob("*_vars/**/*")):
            if file in self._tried or not file.is_file():
                continue
            self._tried.add(file)
            with file.open("rb") as content:
                encrypted = is_encrypted_file(content)
            if encrypted:
                self._try(loader, file)
        return {}

    def _try(self, loader, file):
        try:
            loader.load_from_file(str(file))
        except AnsibleError as error:
            reason = str(error).strip().rstrip(".")
            raise AnsibleParserError(
                f"{file} cannot be decrypted: {reason}. Give the password that it was encrypted with: "
                "--ask-vault-pass, --vault-password-file FILE, or ANSIBLE_VAULT_PASSWORD_FILE."
            ) from None
