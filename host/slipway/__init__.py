"""slipway: deploys releases of the blog on this host, and reports their state.

The control node calls it as one task; an operator can call it without a control node. A release runs in its
own systemd unit and under a lock, so a lost connection or a closed terminal does not interrupt it. If the
program itself is killed, the next run finishes or undoes the release.
"""
