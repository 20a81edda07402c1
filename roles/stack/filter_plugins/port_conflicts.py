"""The filter C(port_conflicts): who listens already on a port that nginx is to be published on."""


def port_conflicts(ports, facts, host):
    """Find the ports that somebody else has.

    Args:
        ports: the port by the variable that says it.
        facts: the host's facts, with C(host_ports) and C(host_engine).
        host: the host's name, for the message.

    Returns:
        One message for each port that is taken, naming who has it and the way out.
    """
    containers = (facts["host_engine"] or {}).get("containers", [])
    # The engine's own listeners stand for containers, which go by their names.
    own = {"docker-proxy", "dockerd"} | {f"container {one['name']}" for one in containers if one["own"]}
    return [
        f"Port {port} ({variable}) of {host} is taken by {', '.join(users)}. "
        f"Stop that, or choose another {variable}."
        for variable, port in ports.items()
        if (users := [user for user in facts["host_ports"].get(str(port), []) if user not in own])
    ]


class FilterModule:
    """Ansible's entry point."""

    def filters(self):
        """Return what the module offers, by its name in templates."""
        return {"port_conflicts": port_conflicts}
