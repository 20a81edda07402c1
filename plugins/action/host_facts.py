# Copyright: (c) 2026, The Slipway developers
# GNU General Public License v3.0+ (see plugins/COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The control node's part of host_facts: it describes the run, and keeps the run's lock until the run ends.

It also turns an unreachable host into an ordinary failure.
"""

from __future__ import annotations

import getpass
import multiprocessing
import os
import select
import shlex
import signal
import socket
import threading
import time
from pathlib import Path

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.slipway.blog.plugins.module_utils.run_lock import FIFO, RUNTIME

# Only Ansible's own ssh plugin is known to close its connection when the run ends, which the host notices.
SSH = "ansible.builtin.ssh"


class ActionModule(ActionBase):
    """Ansible's entry point."""

    def run(self, tmp=None, task_vars=None):
        """Run the module; fail with the reason if login or becoming root fails."""
        result = super().run(tmp, task_vars)
        arguments, is_ssh = dict(self._task.args), self._connection.ansible_name == SSH
        wanted = boolean(arguments.get("lock", False))
        if wanted:
            other = self._templar.template(task_vars.get("host_take_over", ""))
            arguments |= {"lock": is_ssh, "run": describe_run(), "take_over": str(other)}
        try:
            result |= self._execute_module(module_args=arguments, task_vars=task_vars)
        except AnsibleError as failure:
            return result | {"failed": True, "msg": str(failure)}
        if wanted and not is_ssh:
            name = self._connection.ansible_name
            words = f"No lock keeps other runs away from this host: the connection is {name}, not {SSH}."
            result.setdefault("warnings", []).append(words)
        if result.get("taken"):
            self._keep(f"{arguments.get('runtime', RUNTIME)}/{FIFO}")
        return result

    def _keep(self, fifo):
        """Start a process that keeps the host's FIFO open until ansible-playbook ends, however it ends."""
        playbook = watch(multiprocessing.parent_process().pid)
        if os.fork():
            return
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            threading.Thread(target=end_after, args=(playbook,), daemon=True).start()
            path = shlex.quote(fifo)
            self._low_level_execute_command(f"test -p {path} && {{ echo; exec cat; }} > {path}")
        finally:
            # Skip the clean-up of the worker process, of which this process is a copy.
            os._exit(0)


def describe_run():
    """Return the id of this run of ansible-playbook, its playbook, and the user who started it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {
        # Ansible gives each run a temporary directory with a random name.
        "id": Path(constants.DEFAULT_LOCAL_TMP).name.removeprefix("ansible-local-"),
        "playbook": " ".join(context.CLIARGS.get("args") or ["a playbook"]),
        "by": f"{user}@{socket.gethostname()}",
    }


def watch(process):
    """Return a function that waits for the end of a process, and returns at once if it has ended."""
    if hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(process)
        except ProcessLookupError:
            return lambda: None
        return lambda: select.select([descriptor], [], [])

    def poll():
        while exists(process):
            time.sleep(0.5)

    return poll


def exists(process):
    """Tell whether a process exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def end_after(wait):
    """Wait; then end this process and its ssh client, so that the host gets the end of the connection."""
    wait()
    os.killpg(0, signal.SIGTERM)
