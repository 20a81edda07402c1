"""slipway: puts releases of the blog into service on this host, and tells what runs.

The control node calls it as one task; an operator types it where no control node is at hand. A release runs
as a systemd unit of its own and under a lock, so that neither a lost connection nor a closed terminal leaves
it half done. Where the program itself is killed, the next run finds what it left and finishes or undoes it.
"""
