"""Hooks of a release on this host, and the webhook.

The webhook is called when a release ends or secrets are rotated (`notify`), when an unhealthy container is
restarted (healing.py), when the problems of the backups change (backups.py), and after a restore
(restore.py).
"""

import contextlib
import http.client
import json
import os
import shlex
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

from slipway.ledger import Release
from slipway.shell import ENVIRONMENT, Failure, last_lines
from slipway.stack import Stack


def run_hook(stack: Stack, hook: str, entry: Release) -> None:
    """Run the hook `before`, `after` or `failed`, if it is configured; raise Failure if it fails."""
    command = stack.config.get("hooks", {}).get(hook)
    if not command:
        return
    seconds = stack.config["hook_timeout"]
    variables = {
        "SLIPWAY_RELEASE": entry.id,
        "SLIPWAY_OUTCOME": entry.outcome,
        "SLIPWAY_REASON": entry.reason or "",
        "SLIPWAY_INSTEAD_OF": entry.instead_of or "",
        "SLIPWAY_IMAGE": entry.image,
        "SLIPWAY_VERSION": entry.version,
        "SLIPWAY_REVISION": entry.revision,
        "SLIPWAY_BY": entry.by,
    }
    try:
        process = subprocess.Popen(
            shlex.split(command),
            env=ENVIRONMENT | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise Failure(f"The hook `{hook}` cannot be run: {error}.") from None
    with process:
        try:
            output, _errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise Failure(
                f"The hook `{hook}` ({command}) did not end within {seconds} s and was killed."
            ) from None
    if process.returncode:
        raise Failure(f"The hook `{hook}` ({command}) failed ({process.returncode}):\n{last_lines(output)}")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A handler that follows no redirect: only the configured address may get the token."""

    def redirect_request(self, *arguments: object) -> None:
        """Return None, so that the redirect counts as an error."""


def call_webhook(stack: Stack, key: str, value: object) -> None:
    """POST the host's name, and a value with its key, to the webhook, if any; raise Failure if that fails."""
    url = stack.config.get("webhook_url")
    if not url:
        return
    headers = {"Content-Type": "application/json", "User-Agent": "slipway"}
    if stack.secret_file("webhook_token").exists():
        headers["Authorization"] = f"Bearer {stack.secret('webhook_token')}"
    body = json.dumps({"host": stack.config["host"], key: value}).encode()
    seconds = stack.host.settings.webhook_seconds
    problems: list[str] = []

    def send() -> None:
        try:
            request = urllib.request.Request(url, data=body, headers=headers, method="POST")
            urllib.request.build_opener(NoRedirect).open(request, timeout=seconds).close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            problems.append(f"request failed: {error}")

    # The timeout limits each read, but neither the whole request nor the name lookup: a thread limits both.
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(seconds)
    if sender.is_alive():
        problems = [f"did not answer within {seconds} s"]
    if problems:
        raise Failure(f"The webhook {problems[0]}.")


def notify(stack: Stack, hook: str, entry: Release) -> None:
    """Run a hook and call the webhook; print a failure, which does not affect the release."""
    notifications: list[Callable[[], None]] = [
        lambda: run_hook(stack, hook, entry),
        lambda: call_webhook(stack, "release", entry.to_json()),
    ]
    for send in notifications:
        try:
            send()
        except Failure as failure:
            print(f"{failure} This does not affect the release.", flush=True)
